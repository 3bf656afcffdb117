"""The benchmarks compare equals: the published way gives the losses, gradients and latents of ours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.published import as_published, published_sample, published_step
from benchmarks.training_memory import LiveBytes
from siamese_core.diffusers_backend.mask_sampling import controlled_noise_predictor, sample_latents
from siamese_core.method.objective import ObjectiveSettings, siamese_step
from tests.support.learning.batches import DENSE, make_batch
from tests.support.small_models import small_networks


@pytest.mark.parametrize("step", [1, 5])
def test_the_published_schedule_has_our_loss_and_gradients(step: int) -> None:
    batch, settings = make_batch((10, 200, 201, 900), side=8), ObjectiveSettings()
    ours, published = small_networks(DENSE), small_networks(DENSE)
    as_published(published)
    loss = siamese_step(ours, batch, settings, step, 6, Tensor.backward).loss

    torch.testing.assert_close(published_step(published, batch, settings, step, 6), loss)
    for network in (ours, published):
        assert all(weight.grad is not None for weight in network.trained_parameters())
    found, wanted = (
        torch.cat(
            [weight.grad.flatten() for weight in network.trained_parameters() if weight.grad is not None]
        )
        for network in (published, ours)
    )
    assert (found - wanted).norm() <= 1e-4 * wanted.norm()


def test_the_published_sampler_gives_the_images_of_ours() -> None:
    networks, published = small_networks(DENSE), small_networks(DENSE)
    as_published(published)
    rng = torch.Generator().manual_seed(3)
    hints = (torch.rand(2, 1, 64, 64, generator=rng) > 0.5).float().repeat(1, 3, 1, 1)
    context, unconditional = torch.randn(2, 1, 5, 32, generator=rng).unbind()
    with torch.no_grad():
        predict = controlled_noise_predictor(
            networks, [(hints, 1.0)], context.expand(2, -1, -1), unconditional.expand(2, -1, -1), 3.0
        )
    ours = sample_latents(predict, (0, 1), 64, 64, steps=2, device="cpu")

    for seed, hint in enumerate(hints):
        latent = published_sample(published, hint[None], context, unconditional, 3.0, seed, steps=2)
        assert (latent - ours[seed]).abs().max() <= 1e-3 * ours.abs().max()


def test_live_bytes_count_what_is_alive_at_a_time() -> None:
    with LiveBytes() as live:
        first = torch.zeros(1000)
        assert live.now == 4000
        second = first + 1
        del first
        assert live.now == 4000
        second.view(10, 100)
        assert (live.now, live.most) == (4000, 8000)
