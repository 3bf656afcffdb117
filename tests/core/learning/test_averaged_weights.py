from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import nn

from siamese_core.learning.averaged_weights import AveragedWeights

WARMUP: dict[str, Any] = {"use_ema_warmup": True, "inv_gamma": 1.0, "power": 0.75}


def walk(parameter: nn.Parameter, step: int) -> None:
    with torch.no_grad():
        parameter.add_(torch.linspace(-1, 1, parameter.numel()) / (1 + step))


@pytest.mark.parametrize(("warmup_power", "flags"), [(None, {}), (0.75, WARMUP)])
@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_averages_and_their_checkpoint_are_those_of_diffusers(
    warmup_power: float | None, flags: dict[str, Any], decay: float
) -> None:
    weights = nn.Parameter(torch.linspace(0, 2, 50))
    theirs = EMAModel([weights], decay=decay, **flags)
    ours = AveragedWeights([weights], decay, warmup_power)
    for step in range(30):
        walk(weights, step)
        theirs.step([weights])
        ours.update()

        assert torch.equal(ours.averages[0], theirs.shadow_params[0])
    found, wanted = ours.state_dict(), theirs.state_dict()
    assert torch.equal(found.pop("shadow_params")[0], wanted.pop("shadow_params")[0])
    assert found == wanted

    resumed = AveragedWeights([weights], decay, warmup_power)
    resumed.load_state_dict(theirs.state_dict())
    walk(weights, 30)
    theirs.step([weights])
    resumed.update()
    assert torch.equal(resumed.averages[0], theirs.shadow_params[0])


def test_averages_stand_in_for_the_weights_within_a_block() -> None:
    weights = nn.Parameter(torch.ones(3))
    average = AveragedWeights([weights], 0.5)
    average.updates = 10
    with torch.no_grad():
        weights.fill_(3.0)
    average.update()

    with average.in_place():
        assert weights.tolist() == [2.0] * 3
    assert weights.tolist() == [3.0] * 3


def test_averages_of_other_networks_are_refused_and_change_nothing() -> None:
    average = AveragedWeights([torch.ones(3)], 0.5)
    with pytest.raises(ValueError, match="other shapes"):
        average.load_state_dict(AveragedWeights([torch.zeros(4)], 0.5).state_dict())

    assert average.averages[0].tolist() == [1.0] * 3
