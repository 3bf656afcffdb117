"""Sampling for masks by every sampler: a sample depends on its own seed and mask only."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from siamese_core.architecture import Prediction
from siamese_core.diffusers_backend.mask_sampling import (
    DEFAULT_STEPS,
    Sampler,
    controlled_noise_predictor,
    sample_latents,
)
from siamese_core.seeds import starting_noise, step_noise
from tests.support.small_models import small_networks

RNG = torch.Generator().manual_seed(4)
SAMPLERS = get_args(Sampler)


def test_every_sampler_has_a_default_number_of_steps() -> None:
    assert set(DEFAULT_STEPS) == set(SAMPLERS)


@torch.no_grad()
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_sample_does_not_depend_on_its_batch(sampler: Sampler, prediction: Prediction) -> None:
    networks = small_networks()
    networks.prediction = prediction
    for network in (networks.control, networks.encoder, networks.decoder):
        network.double()  # random weights amplify the rounding of float32
    rng = torch.Generator().manual_seed(5)
    mask = (torch.rand((3, 1, 64, 64), generator=rng) > 0.5).float().repeat(1, 3, 1, 1)
    context, unconditional = torch.randn((2, 3, 5, 32), generator=rng).unbind()
    seeds = [11, 12, 13]

    def sample(chosen: list[int]) -> Tensor:
        predict = controlled_noise_predictor(
            networks, [(mask[chosen], 1.0)], context[chosen], unconditional[chosen], 2.0
        )
        return sample_latents(
            predict,
            [seeds[index] for index in chosen],
            64,
            64,
            steps=3,
            device="cpu",
            sampler=sampler,
            prediction=prediction,
        )

    together, alone = sample([0, 1, 2]), sample([1])
    assert together.isfinite().all()
    assert float((alone - together[1:2]).norm()) <= 1e-6 * float(alone.norm())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling_starts_from_each_seeds_own_noise(sampler: Sampler) -> None:
    seen: list[Tensor] = []

    def predict(latent: Tensor, timestep: int) -> Tensor:
        seen.append(latent)
        return torch.zeros_like(latent)

    sample_latents(predict, [5, 6], height=64, width=128, steps=2, device="cpu", sampler=sampler)

    assert torch.equal(seen[0][1:], starting_noise(6, 8, 16))


def test_each_seed_and_step_of_a_stochastic_sampler_has_noise_of_its_own() -> None:
    drawn = [step_noise(step, seed, 8, 8) for step in range(3) for seed in (5, 6)]
    drawn += [starting_noise(seed, 8, 8) for seed in (5, 6)]
    for index, noise in enumerate(drawn):
        assert not any(torch.equal(noise, other) for other in drawn[:index])
