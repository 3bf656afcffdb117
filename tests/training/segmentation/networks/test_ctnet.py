"""The modules of CTNet and its loss; what it shares with other networks is tested with those."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.segmentation.networks.ctnet import (
    CTNet,
    EmbeddingHead,
    InformationCollection,
    MultiscaleInteraction,
)
from training.segmentation.networks.losses import pixel_contrast_loss, structure_loss
from training.segmentation.networks.registry import build_network

RNG = torch.Generator().manual_seed(1)
SHALLOW, MIDDLE, DEEP = (torch.randn((2, 32, side, side), generator=RNG) for side in (16, 8, 4))


@torch.no_grad()
def test_the_loss_is_the_structure_loss_and_a_tenth_of_the_contrast() -> None:
    network = build_network("ctnet", seed=1).eval()
    assert isinstance(network, CTNet)
    images, masks = torch.randn((2, 3, 64, 64), generator=RNG), torch.zeros(2, 1, 64, 64)
    masks[..., 20:44, 10:50] = 1
    seen: list[Tensor] = []
    network.embed.register_forward_hook(lambda *call: seen.append(call[-1]))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        loss = network.training_loss(images, masks)
        (logits,) = network(images)
        torch.default_generator.manual_seed(3)
        contrast = pixel_contrast_loss(seen[0], logits, masks)

    assert contrast > 0
    torch.testing.assert_close(loss, structure_loss(logits, masks) + 0.1 * contrast)


def test_descending_the_contrast_pulls_a_class_together_and_pushes_the_classes_apart() -> None:
    lesion = torch.zeros(1, 1, 16, 16)
    lesion[..., 8:] = 1
    free = torch.randn((1, 2, 16, 16), generator=RNG, requires_grad=True)
    optimiser = torch.optim.Adam([free], lr=0.1)

    def mean_cosines() -> tuple[float, float]:
        """Within a class, and between the classes."""
        unit, of_lesion = F.normalize(free.detach(), dim=1)[0].flatten(1), lesion.flatten() > 0
        first, second = unit[:, of_lesion].mean(1), unit[:, ~of_lesion].mean(1)
        return float(first @ first + second @ second) / 2, float(first @ second)

    within, between = mean_cosines()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for _ in range(60):
            loss = pixel_contrast_loss(F.normalize(free, dim=1), torch.zeros_like(lesion), lesion)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    assert mean_cosines()[0] > within + 0.3
    assert mean_cosines()[1] < between - 0.3


@torch.no_grad()
def test_embeddings_have_unit_length_at_eight_times_the_resolution() -> None:
    embeddings = EmbeddingHead(32).eval()(DEEP)

    assert embeddings.shape == (2, 32, 32, 32)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2, 32, 32))


@pytest.mark.parametrize("features", [SHALLOW, DEEP, SHALLOW[..., :7, :5]], ids=["16x16", "4x4", "7x5"])
@torch.no_grad()
def test_interaction_adds_to_a_map_of_any_size(features: Tensor) -> None:
    block = MultiscaleInteraction(32).eval()
    assert block(features).shape == features.shape
    assert not torch.equal(block(features), features)

    for norm in block.norm_high:
        norm.weight.zero_()
    assert torch.equal(block(features), features)


@torch.no_grad()
def test_collection_keeps_the_shallow_map_where_the_deeper_ones_are_silent() -> None:
    block = InformationCollection(32).eval()
    assert block(SHALLOW, MIDDLE, DEEP).shape == SHALLOW.shape

    for weight in block.parameters():
        weight.zero_()
    assert torch.equal(block(SHALLOW, MIDDLE, DEEP), SHALLOW)
