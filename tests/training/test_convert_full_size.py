"""training.convert at the shapes of Stable Diffusion 1.5 and 2.1: no changed bit, and little memory.

Only with ``SIAMESE_FULL_SIZE=1``: 18 GB of disk, 14 GB of memory, fifteen minutes on one core.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from siamese_core.architecture import SD15, SD21
from siamese_core.weights.model_file import load_model
from tests.support.anonymous_memory import peak_anonymous_memory
from tests.support.published import published

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SIAMESE_FULL_SIZE" not in os.environ, reason="SIAMESE_FULL_SIZE is not set"),
]
FAMILIES = {"SD 1.5": SD15, "SD 2.1": SD21}
MOST = 2 << 30  # bytes of anonymous memory


class Authors(NamedTuple):
    """A checkpoint in the published layout, fp32."""

    family: str
    path: Path
    tensors: dict[str, Tensor]


@pytest.fixture(scope="module", params=FAMILIES)
def authors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authors]:
    path = tmp_path_factory.mktemp("authors") / "authors.ckpt"
    tensors = published(FAMILIES[request.param])
    torch.save({"state_dict": tensors, "global_step": 3000}, path)
    yield Authors(request.param, path, tensors)
    path.unlink()


def converted(source: Path, output: Path, target: str, *flags: object) -> Path:
    command = (sys.executable, "-m", "training.convert", source, output, "--to", target, *flags)
    peak = peak_anonymous_memory(*command)
    print(f"{source.name} to {target}: {peak / 2**20:.0f} MiB")
    assert peak < MOST
    return output


def test_cldm_to_diffusers_and_back_changes_no_bit(authors: Authors, tmp_path: Path) -> None:
    architecture = FAMILIES[authors.family]
    # Random weights do not tell what an SD 2.x model predicts.
    predicts = ("--prediction", architecture.prediction)
    folder = converted(authors.path, tmp_path / "folder", "diffusers", *predicts)
    back = converted(folder, tmp_path / "back.safetensors", "cldm")

    with safe_open(back, "pt") as file:
        assert set(file.keys()) == authors.tensors.keys()
        assert all(torch.equal(file.get_tensor(key), value) for key, value in authors.tensors.items())
    found = load_model(back).architecture
    assert replace(found, resolution=architecture.resolution) == architecture  # no weight tells the side
    assert len(authors.tensors) > 1131


def test_full_to_adapter_and_back_onto_the_base_changes_no_bit(authors: Authors, tmp_path: Path) -> None:
    full = converted(authors.path, tmp_path / "full.safetensors", "full")
    adapter = converted(full, tmp_path / "adapter.safetensors", "adapter")
    base = full.rename(tmp_path / "base.safetensors")
    back = converted(adapter, full, "full", "--base", base)

    with base.open("rb") as first, back.open("rb") as second:
        while block := first.read(1 << 24):
            assert block == second.read(len(block))
        assert not second.read(1)
