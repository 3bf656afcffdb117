"""The host's networks behind the objective: losses, gates and gradients equal the recordings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from siamese_core.method.objective import ObjectiveSettings
from tests.support.goldens import TERMS, check_gradients, load_goldens

from ..support.processes import inside
from ..support.server import Installation

INPUTS = ("x_start", "noise", "context", "hint_mask", "hint_image")


def test_losses_gates_and_gradients_through_the_hosts_networks_equal_the_recording(
    installation: Installation, tmp_path: Path
) -> None:
    goldens = load_goldens()
    richest = next(case for case in goldens.cases if case.augments and case.gradient_norms is not None)
    runs = [*((case, False) for case in goldens.cases), (richest, True)]
    names = ("weights.safetensors", "inputs.safetensors", "architecture.json", "cases.json")
    files = [tmp_path / name for name in names]
    save_file({key: value.contiguous() for key, value in goldens.weights.items()}, files[0])
    save_file({name: goldens.inputs[name].contiguous() for name in INPUTS}, files[1])
    files[2].write_text(goldens.architecture().to_json(), "utf-8")
    cases = [
        {
            "k": case.k,
            "total": case.total,
            "timesteps": case.timesteps.tolist(),
            "checkpointing": checkpointing,
        }
        for case, checkpointing in runs
    ]
    files[3].write_text(json.dumps(cases), "utf-8")
    output = tmp_path / "gradients.safetensors"

    results = inside(installation, "recorded_steps", *files, output, script="inside_training.py")

    gradients = load_file(output)
    compared = 0
    for number, ((case, checkpointing), found) in enumerate(zip(runs, results, strict=True)):
        assert found["loss"] == pytest.approx(case.loss, rel=1e-5), f"{case}, {checkpointing=}"
        assert found["frozen_gradients"] == 0
        taking_part = case.timesteps <= ObjectiveSettings().augmentation_max_timestep
        for theirs, ours in TERMS.items():
            if theirs in case.per_sample:
                kept = taking_part if theirs == "aug" else torch.ones_like(taking_part)
                actual, expected = torch.tensor(found[ours])[kept], case.per_sample[theirs][kept]
                torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)
        if case.gradient_norms is not None:
            prefix = f"{number}/"
            own = [key for key in gradients if key.startswith(prefix)]
            check_gradients(goldens, {key.removeprefix(prefix): gradients[key] for key in own}, case)
            compared += 1
    assert compared >= 2
