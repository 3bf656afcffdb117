"""The modules of Polyp-PVT and its loss; what it shares with other networks is tested with those."""

from __future__ import annotations

import torch

from training.segmentation.networks.losses import structure_loss
from training.segmentation.networks.polyp_pvt import (
    CamouflageIdentification,
    CascadedFusion,
    SimilarityAggregation,
)
from training.segmentation.networks.registry import build_network

RNG = torch.Generator().manual_seed(1)
SHALLOW, MIDDLE, DEEP = (torch.randn((2, 32, side, side), generator=RNG) for side in (16, 8, 4))


@torch.no_grad()
def test_both_maps_are_supervised_and_their_sum_is_not() -> None:
    network = build_network("polyp-pvt", seed=1).eval()
    images, masks = torch.randn((2, 3, 64, 64), generator=RNG), torch.zeros(2, 1, 64, 64)
    masks[..., 20:44, 10:50] = 1
    first, second, _ = network(images)

    expected = structure_loss(first, masks) + structure_loss(second, masks)
    torch.testing.assert_close(network.training_loss(images, masks), expected)


@torch.no_grad()
def test_fusion_keeps_only_what_the_deepest_map_confirms() -> None:
    fusion = CascadedFusion(32).eval()

    fused = fusion(SHALLOW, MIDDLE, DEEP)
    assert fused.shape == SHALLOW.shape
    assert fused.any()
    assert not fusion(SHALLOW, MIDDLE, torch.zeros_like(DEEP)).any()


@torch.no_grad()
def test_camouflage_identification_weighs_channels_then_places() -> None:
    block = CamouflageIdentification(32)
    # Attention of sigmoid(0), twice.
    for weight in block.parameters():
        weight.zero_()
    torch.testing.assert_close(block(SHALLOW), SHALLOW / 4)

    block.places.weight[:, :, 3, 3] = 100.0  # mean and largest of a place, far above 0
    positive = SHALLOW.abs() + 1
    torch.testing.assert_close(block(positive), positive / 2)


@torch.no_grad()
def test_aggregation_adds_to_the_features_what_the_graph_found() -> None:
    block = SimilarityAggregation(32)
    detail = torch.randn(SHALLOW.shape, generator=RNG)
    added = block(SHALLOW, detail) - SHALLOW

    assert added.any()
    assert not torch.equal(block(SHALLOW, 2 * detail) - SHALLOW, added)  # detail chooses the nodes
    block.extend.weight.zero_()
    assert torch.equal(block(SHALLOW, detail), SHALLOW)


@torch.no_grad()
def test_aggregation_reaches_across_the_whole_map() -> None:
    block, detail = SimilarityAggregation(32), torch.zeros_like(SHALLOW)
    changed = SHALLOW.clone()
    changed[:, :, :4, :4] += 3

    difference = block(changed, detail) - block(SHALLOW, detail)

    assert difference[:, :, -1, -1].any()
