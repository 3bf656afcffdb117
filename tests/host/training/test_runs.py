"""Whole trainings in the host's process: equal to headless ones, and nothing is left of them afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from siamese_core import shipped
from siamese_core.json_lines import json_objects
from training import train

from ..support.processes import inside
from ..support.server import Installation

BASE, PAIRS = shipped.BASE, shipped.TRAIN
STEPS = 20
SIDE = 64  # pixels: a quarter of the base's own area, and of the time
MOST_GROWTH = 50 << 20  # bytes


@pytest.fixture(scope="module")
def result(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A training, the same with its batch in parts and its blocks checkpointed, and three short ones."""
    folder = tmp_path_factory.mktemp("trainings")
    whole, parts = (
        {"micro_batches": count, "checkpointing": count > 1, "resolution": SIDE} for count in (1, 2)
    )
    plans = [{"steps": STEPS, **whole}, {"steps": STEPS, **parts}, *({"steps": 2, **whole},) * 3]
    (folder / "settings.json").write_text(json.dumps(plans), "utf-8")
    files = (BASE, PAIRS, folder, folder / "settings.json")
    return folder, inside(installation, "trainings", *files, script="inside_training.py")


def test_twenty_steps_lose_what_the_headless_command_loses(result: tuple[Path, Any], tmp_path: Path) -> None:
    arguments = (
        f"--pairs {PAIRS} --base {BASE} --output {tmp_path / 'run'} --steps {STEPS} "
        f"--resolution {SIDE} "
        "--batch-size 2 --seed 7 --sample-every 0 --threads 1"
    )
    assert train.main(arguments.split()) == 0

    headless = [line.value["loss"] for line in json_objects(tmp_path / "run" / "log.jsonl")]
    _, found = result
    torch.testing.assert_close(found["trainings"][0]["losses"], headless, rtol=1e-4, atol=0)


def test_parts_and_checkpointed_blocks_train_to_the_same_weights_within_rounding(
    result: tuple[Path, Any],
) -> None:
    folder, found = result
    torch.testing.assert_close(
        found["trainings"][1]["losses"], found["trainings"][0]["losses"], rtol=1e-4, atol=0
    )
    whole, parts = (load_file(folder / number / "control.safetensors") for number in ("0", "1"))
    assert all(torch.allclose(whole[key], parts[key], rtol=0, atol=1e-5) for key in whole)


def test_nothing_is_left_of_a_training(result: tuple[Path, Any]) -> None:
    _, found = result
    for training in found["trainings"]:
        assert training["alive"] == []
        assert "_Networks" not in training["loaded"]
    resident = [training["resident"] for training in found["trainings"]]
    assert resident[4] - resident[1] <= MOST_GROWTH
    assert found["unchanged"] == {"model": True, "clip": True, "vae": True}
