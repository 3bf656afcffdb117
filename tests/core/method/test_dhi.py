"""The hint block's first weights: alike wherever a training begins."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from siamese_core.method.dhi import dense_hint_block, draw_hint_block


def test_the_first_weights_depend_on_the_seed_alone_and_lie_where_torch_would_draw_them() -> None:
    torch.manual_seed(1)
    first, again, other = (nn.Sequential(*dense_hint_block(64)) for _ in range(3))
    draw_hint_block(first, 5)
    torch.manual_seed(2)
    draw_hint_block(again, 5)
    draw_hint_block(other, 6)

    drawn = dict(first.named_parameters())
    assert all(torch.equal(value, drawn[key]) for key, value in again.named_parameters())
    third = dict(other.named_parameters())["0.layer3.conv1.weight"]
    assert not torch.equal(drawn["0.layer3.conv1.weight"], third)
    for name in ("0.initial_conv", "0.layer5.conv2", "0.patch_merge2.reduction"):
        weight = drawn[f"{name}.weight"]
        bound = weight[0].numel() ** -0.5
        assert 0.95 * bound < float(weight.abs().max()) <= bound
        assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.1)
        assert float(drawn[f"{name}.bias"].abs().max()) <= bound
    assert (drawn["0.patch_merge1.norm.weight"] == 1).all() and not drawn["0.patch_merge1.norm.bias"].any()
    assert not any(parameter.any() for name, parameter in drawn.items() if name.startswith("1."))
