"""Training with bfloat16 weights, by the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from siamese_core.weights.model_file import load_model
from tests.support.folders import read_tree
from tests.support.learning.train_runs import STEPS, Train

IN_BF16 = ("--mixed-precision", "bf16", "--weight-precision", "bf16")


@pytest.mark.slow
def test_a_run_with_bfloat16_weights_resumes_and_ends_with_a_finite_model(
    train: Train, tmp_path: Path
) -> None:
    pictured = ("--sample-every", 2, "--sample-count", 1, "--keep-checkpoints", 9)
    whole = train(tmp_path / "whole", *IN_BF16, *pictured)
    assert whole.status == 0, whole.errors
    checkpoint = tmp_path / "whole" / "checkpoints" / f"step-{STEPS:08d}"
    kinds = {name: weight.dtype for name, weight in load_file(checkpoint / "model.safetensors").items()}
    assert kinds["conv_in.weight"] == torch.bfloat16
    assert kinds["conv_in.bias"] == torch.float32
    record = json.loads((checkpoint / "record.json").read_text("utf-8"))
    assert record["weight_precision"] == "bf16"
    model = load_model(tmp_path / "whole" / "model.safetensors")
    assert all(weight.isfinite().all() for part in model.parts.values() for weight in part.values())

    refusal = train(tmp_path / "whole", "--mixed-precision", "bf16", "--resume").refusal
    assert "weight_precision was 'bf16' and is now not set" in refusal


def test_runs_with_float32_weights_are_recorded_as_before_there_was_a_choice(
    train: Train, tmp_path: Path
) -> None:
    assert train(tmp_path, "--steps", 1).status == 0
    record = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert "weight_precision" not in record


@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_bfloat16_weights_want_bfloat16_autocast(precision: str, train: Train, tmp_path: Path) -> None:
    refusal = train(tmp_path, "--mixed-precision", precision, "--weight-precision", "bf16").refusal
    assert "--mixed-precision" in refusal
    assert read_tree(tmp_path) == {}
