"""What the command tests share: a tiny base, model and set of pairs, and commands run in this process."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.many_pairs import SIDE
from benchmarks.many_pairs import SMALL as SMALLEST
from siamese_core.diffusers_backend.base_model import Base, base_file, build_base, save_base
from siamese_core.diffusers_backend.networks import DHIControlNet
from siamese_core.learning import training_run
from siamese_core.weights.key_layouts import to_ldm
from siamese_core.weights.model_file import save_model
from tests.support.commands import (
    MODEL_PROMPT,
    SignalAtPair,
    SignalInStep,
)
from tests.support.phantoms.phantom import write_phantoms
from training import generate


@pytest.hookimpl(optionalhook=True)  # pytest-xdist may be absent, or not asked for
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests go to one worker, and all of ``tests/host`` to one, which runs them in one host."""
    from xdist.scheduler import LoadFileScheduling

    class HostTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "host" if nodeid.startswith("tests/host/") else str(super()._split_scope(nodeid))

    return HostTogether(config, log)


@pytest.fixture
def signal_in_step(monkeypatch: pytest.MonkeyPatch) -> SignalInStep:
    """A function (label, k, number): the signal arrives while the loop ``label`` is in step k."""

    def arrange(label: str, step: int, number: signal.Signals) -> None:
        run_steps = training_run.run_steps

        def signalled(step_function: Callable[[int], Any], *args: Any, **kwargs: Any) -> None:
            def function(k: int) -> Any:
                if k == step and kwargs["label"] == label:
                    signal.raise_signal(number)
                return step_function(k)

            run_steps(function, *args, **kwargs)

        monkeypatch.setattr(training_run, "run_steps", signalled)

    return arrange


@pytest.fixture
def signal_at_pair(monkeypatch: pytest.MonkeyPatch) -> SignalAtPair:
    """A function (i, number): the signal arrives, once, while generate samples the batch of pair i."""

    def arrange(index: int, number: signal.Signals) -> None:
        sample = generate.PairSampler.sample
        sent: list[int] = []

        def signalled(self: generate.PairSampler, jobs: Sequence[Any]) -> Any:
            if not sent and index in [job.record.index for job in jobs]:
                sent.append(number)
                signal.raise_signal(number)
            return sample(self, jobs)

        monkeypatch.setattr(generate.PairSampler, "sample", signalled)

    return arrange


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six pairs, each with a prompt of its own."""
    folder = tmp_path_factory.mktemp("data") / "pairs"
    write_phantoms(folder, 6, size=SIDE)
    return folder


@pytest.fixture(scope="session")
def random_base() -> Base:
    return build_base(SMALLEST, seed=1)


@pytest.fixture(scope="session")
def base_layouts(tmp_path_factory: pytest.TempPathFactory, random_base: Base) -> tuple[Path, Path]:
    """The random base as a diffusers folder and as a single file."""
    return save_base(random_base, tmp_path_factory.mktemp("base"), {}, "base-run")


@pytest.fixture(scope="session")
def base_folder(base_layouts: tuple[Path, Path]) -> Path:
    return base_layouts[0]


@pytest.fixture(scope="session")
def single_base(base_layouts: tuple[Path, Path]) -> Path:
    return base_layouts[1]


@pytest.fixture(scope="session")
def full_model(tmp_path_factory: pytest.TempPathFactory, random_base: Base) -> Path:
    """A full model file of random weights whose controls are strong enough for masks to matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        control = DHIControlNet.initialised_from(random_base.unet, SMALLEST)
        for parameter in control.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
    training = {"prompt": MODEL_PROMPT, "resolution": SIDE}
    base = base_file(random_base, training, "model-run")
    parts = {**base.parts, "control": to_ldm("control", control.state_dict(), SMALLEST)}
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, replace(base, kind="full", parts=parts))
    return path
