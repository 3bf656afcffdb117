"""Parameter updates against hand-computed ones; the shipped plans."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from training import evaluate, generate, segment, train
from training.ablation.plan import flags, plan_of_table
from training.ablation.updates import compare_updates, starting_weights, update
from training.command_line.options import read_toml
from training.segmentation.networks.registry import NETWORKS

UNET = {"input_blocks.0.0.weight": torch.tensor([3.0, 4.0]), "out.2.weight": torch.tensor([1.0, 0.0])}
ABLATIONS = sorted((Path(__file__).parents[3] / "training" / "recipes" / "ablations").glob("*.toml"))


def trained(
    encoder: list[float], decoder: list[float], zero: list[float]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A control network and a UNet that moved by so much."""
    control = {
        "input_blocks.0.0.weight": UNET["input_blocks.0.0.weight"] + torch.tensor(encoder),
        "zero_convs.0.0.weight": torch.tensor(zero),
        "input_hint_block.0.weight": torch.ones(7),
    }
    return control, {**UNET, "out.2.weight": UNET["out.2.weight"] + torch.tensor(decoder)}


def test_sizes_and_directions_of_updates() -> None:
    start = starting_weights(UNET)
    first = update(*trained([1.0, 0.0], [0.0, 2.0], [0.0]), start)
    second = update(*trained([1.0, 1.0], [0.0, -1.0], [3.0]), start)

    encoder, zero, decoder = compare_updates({"a": first, "b": second}, start)

    assert encoder.sizes == pytest.approx([1, 2**0.5])
    assert encoder.relative == pytest.approx([1 / 5, 2**0.5 / 5])
    assert encoder.cosines[0] == pytest.approx([1, 2**-0.5])
    assert zero.sizes == [0, 3]
    assert zero.relative == [None, None]
    assert zero.cosines == [[None, None], [None, 1]]
    assert decoder.relative == pytest.approx([2, 1])
    assert decoder.cosines[1] == pytest.approx([-1, 1])


def test_settings_become_flags() -> None:
    assert flags({"hint_block": "sparse", "pretrained": True, "resume": False, "seeds": [1, 2]}) == [
        *("--hint-block", "sparse"),
        "--pretrained",
        "--no-resume",
        *("--seeds", "1", "2"),
    ]


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_shipped_plans_hold_settings_that_their_commands_know(path: Path) -> None:
    plan = plan_of_table(read_toml(path), path)
    stages = {stage: dict(settings) for stage, settings in plan.stages.items()}
    networks = stages["segment"].pop("networks")

    assert set(networks) <= set(NETWORKS)
    generate.parse(flags(stages["generate"]))
    evaluate.parse(flags(stages["evaluate"]))
    segment.parse(flags(stages["segment"]))
    for variant in plan.variants:
        settings = {**stages["train"], **variant.train}
        train.parse([*flags(settings), "--pairs", "p", "--base", "b", "--output", "o"])
