"""What training.train refuses, and with which words."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.many_pairs import SMALL as SMALLEST
from siamese_core.diffusers_backend.base_model import build_base, save_base
from siamese_core.weights.model_file import load_model
from tests.support.commands import run_here
from tests.support.folders import read_tree
from tests.support.learning.train_runs import Train
from training import train as train_command


def test_a_folder_that_holds_something_is_not_written_to(train: Train, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refusal = train(tmp_path).refusal
    assert refusal.startswith(f"{tmp_path}: not empty")
    assert read_tree(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("name", ["pairs", "base", "output"])
def test_a_missing_path_is_asked_for(name: str, pairs: Path, single_base: Path, tmp_path: Path) -> None:
    given = {"pairs": pairs, "base": single_base, "output": tmp_path / "run"}
    del given[name]
    arguments = [part for key, path in given.items() for part in (f"--{key}", path)]
    assert run_here(train_command.main, *arguments).refusal == f"--{name} is needed"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("resolution", 100),
        ("resolution", 0),
        ("steps", 0),
        ("batch-size", 0),
        ("save-every", 0),
        ("log-every", 0),
        ("keep-checkpoints", 0),
        ("sample-count", 0),
        ("draws-per-pair", 0),
        ("warmup", -1),
        ("snr-exponent", -1),
        ("min-snr-gamma", -1),
        ("lesion-balance", 2),
        ("ema-decay", 1),
        ("micro-batches", 0),
    ],
)
def test_a_number_out_of_range_is_named(setting: str, value: int, train: Train, tmp_path: Path) -> None:
    refusal = train(tmp_path / "run", f"--{setting}", value).refusal
    assert refusal.startswith(f"--{setting} must ")
    assert refusal.endswith(f"not {value}")


def test_unmatched_pairs_are_one_line_of_error_and_status_2(
    train: Train, pairs: Path, tmp_path: Path
) -> None:
    for name in ("images", "masks"):
        shutil.copytree(pairs / name, tmp_path / name)
    (tmp_path / "masks" / "phantom_00003.png").unlink()
    outcome = train(tmp_path / "run", "--pairs", tmp_path)
    assert outcome.status == 2
    (line,) = outcome.errors.splitlines()
    assert line.startswith("error: ")
    assert "1 image without a mask (phantom_00003)" in line


def test_a_base_that_cannot_be_read_is_named_and_leaves_the_output_folder_unused(
    train: Train, tmp_path: Path
) -> None:
    run, text = tmp_path / "run", tmp_path / "text.safetensors"
    text.write_text("not a model")
    missing = tmp_path / "nowhere"
    assert train(run, "--base", missing).refusal.startswith(f"{missing}: no such base")
    refusal = train(run, "--base", text).refusal
    assert refusal.startswith(f"'{text}' is damaged or is not a safetensors file")
    assert not run.exists()


def test_a_base_laid_out_as_stable_diffusion_2_gives_a_model_that_is(train: Train, tmp_path: Path) -> None:
    architecture = replace(
        SMALLEST,
        unet=replace(SMALLEST.unet, num_heads=8, head_channels=32, linear_projection=True),
        text=replace(SMALLEST.text, family="open_clip"),
        prediction="v_prediction",
    )
    folder, _ = save_base(build_base(architecture), tmp_path, {}, "")

    outcome = train(tmp_path / "run", "--base", folder, "--steps", 1, "--export-precision", "fp32")

    assert outcome.status == 0, outcome.errors
    found = load_model(tmp_path / "run" / "model.safetensors")
    assert found.architecture == architecture


def test_an_inpainting_base_is_refused(train: Train, base_folder: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(base_folder, tmp_path / "base"))
    edit_json(base / "unet" / "config.json", in_channels=9)
    refusal = train(tmp_path / "run", "--base", base).refusal
    assert refusal.startswith(f"{base}: this is an inpainting model: its UNet also takes a mask")


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
