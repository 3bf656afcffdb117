"""A diverged run is resumed as its message advises, and what was changed is recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from benchmarks.many_pairs import SIDE
from siamese_core.weights.model_file import load_model
from tests.support.commands import Outcome, run_here
from training import train


def run(pairs: Path, base: Path, output: Path, *more: object) -> Outcome:
    places = ("--pairs", pairs, "--base", base, "--output", output, "--resolution", SIDE, "--threads", 1)
    numbers = ("--batch-size", 2, "--save-every", 1, "--log-every", 1, "--sample-every", 0)
    return run_here(train.main, *places, *numbers, "--export-precision", "fp32", *more)


def record_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "record.json").read_text("utf-8")))


def test_a_changed_rate_is_used_when_asked_for_and_recorded(
    pairs: Path, single_base: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    begun = run(pairs, single_base, output, "--steps", 2, "--learning-rate", 1e-3, "--keep-checkpoints", 9)
    assert begun.status == 0, begun.errors
    shutil.rmtree(output / "checkpoints" / "step-00000002")
    changed = ("--steps", 2, "--resume", "--learning-rate", 1e-9, "--mixed-precision", "bf16")

    refusal = run(pairs, single_base, output, *changed).refusal
    assert "learning_rate was 0.001 and is now 1e-09" in refusal
    assert refusal.endswith("--change-optimiser allows that and records it")

    resumed = run(pairs, single_base, output, *changed, "--change-optimiser")
    assert resumed.status == 0, resumed.errors
    assert "from step 1 on, learning_rate is 1e-09 in place of 0.001" in resumed.output
    change = {"step": 1, "learning_rate": [0.001, 1e-9], "mixed_precision": ["no", "bf16"]}
    assert record_of(output / "checkpoints" / "step-00000002")["changes"] == [change]
    assert load_model(output / "model.safetensors").training["changes"] == [change]
    states = [
        torch.load(output / "checkpoints" / f"step-0000000{step}" / "optimizer.bin", weights_only=True)
        for step in (1, 2)
    ]
    assert [state["param_groups"][0]["lr"] for state in states] == [1e-3, 1e-9]

    again = run(pairs, single_base, output, *changed)  # the change is the run's own now
    assert again.status == 0, again.errors
    assert load_model(output / "model.safetensors").training["changes"] == [change]


def test_a_finished_model_is_no_base(pairs: Path, full_model: Path, tmp_path: Path) -> None:
    refusal = run(pairs, full_model, tmp_path / "run", "--steps", 1).refusal
    assert refusal.startswith(
        f"{full_model}: a finished Siamese model, whose trained ControlNet would be thrown"
    )
    assert not (tmp_path / "run").exists()


def test_training_that_does_not_fit_into_memory_names_the_flags(
    pairs: Path, single_base: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    def too_much(*_: Any, **__: Any) -> Any:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 99"
        )

    monkeypatch.setattr(train.Trainer, "step_function", too_much)
    refusal = run(pairs, single_base, tmp_path / "run", "--steps", 1).refusal
    for flag in ("--batch-size", "--micro-batches", "--gradient-checkpointing", "--resolution"):
        assert flag in refusal
