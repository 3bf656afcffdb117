"""Generating with networks that torch compiles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.many_pairs import SIDE
from tests.support.commands import Outcome, run_here
from training import generate, regenerate


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    folder.mkdir()
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for stem, radius in (("small", 12), ("large", 20)):
        disc = (rows - SIDE / 2) ** 2 + (columns - SIDE / 2) ** 2 < radius**2
        Image.fromarray(disc.astype(np.uint8) * np.uint8(255)).save(folder / f"{stem}.png")
    return folder


def generated(model: Path, masks: Path, output: Path, *more: object) -> Outcome:
    usual = ("--checkpoint", model, "--masks", masks, "--output", output, "--steps", 2, "--threads", 1)
    return run_here(generate.main, *usual, *more)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="compiling for a CPU takes a C++ compiler")
def test_compiled_networks_make_the_same_images_within_rounding_and_make_them_again(
    full_model: Path, masks: Path, tmp_path: Path
) -> None:
    plain = generated(full_model, masks, tmp_path / "plain")
    assert plain.status == 0, plain.errors
    compiled = generated(full_model, masks, tmp_path / "compiled", "--compile")
    assert compiled.status == 0, compiled.errors
    for stem in ("small", "large"):
        found, wanted = (
            np.asarray(Image.open(tmp_path / folder / "images" / f"{stem}.png")).astype(int)
            for folder in ("compiled", "plain")
        )
        assert np.abs(found - wanted).max() <= 1
    lines = (tmp_path / "compiled" / "manifest.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["sampler"]["compile"] for line in lines] == [True, True]

    flags = ("--pair", "small", "--checkpoint", full_model, "--masks", masks, "--output", tmp_path / "again")
    again = run_here(regenerate.main, tmp_path / "compiled" / "manifest.jsonl", *flags)
    assert again.status == 0, again.errors


@pytest.mark.slow
def test_without_a_compiler_compiling_is_refused_with_what_to_do(
    full_model: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.compiler.reset()  # what another test has compiled needs no compiler any more
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    refusal = generated(full_model, masks, tmp_path / "pairs", "--compile").refusal
    assert refusal.startswith("torch cannot compile the networks here (")
    assert "leave out --compile, or install what it needs: a C++ compiler" in refusal
