"""DPM-Solver++(2M) against diffusers' scheduler driven the plain way, and what sampling makes of it."""

from __future__ import annotations

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from siamese_core.architecture import Prediction
from siamese_core.diffusers_backend.dpm_solver import dpm_solver_sample
from siamese_core.diffusers_backend.mask_sampling import controlled_noise_predictor, sample_latents
from siamese_core.method.ddim import ddim_sample
from siamese_core.method.noise_schedule import (
    BETA_END,
    BETA_SCHEDULE,
    BETA_START,
    TRAIN_TIMESTEPS,
    alphas_cumprod,
    predicted_noise,
)
from siamese_core.seeds import starting_noise
from tests.support.small_models import small_networks

RNG = torch.Generator().manual_seed(4)
CLEAN = torch.randn((2, 4, 8, 8), generator=RNG)
START = torch.randn((2, 4, 8, 8), generator=RNG)


def network(latent: Tensor, timestep: int) -> Tensor:
    """Stands for a network of either prediction: smooth, bounded, and of latent and timestep both."""
    return torch.tanh(0.7 * latent + timestep / TRAIN_TIMESTEPS + CLEAN)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 2, 8, 14, 15, 20, 50])
def test_the_solver_agrees_with_diffusers(steps: int, prediction: Prediction) -> None:
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule=BETA_SCHEDULE,
        prediction_type=prediction,
        use_karras_sigmas=True,
        final_sigmas_type="sigma_min",
    )
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    expected = START
    for timestep in scheduler.timesteps.tolist():
        expected = scheduler.step(network(expected, timestep), timestep, expected).prev_sample

    def predict_noise(latent: Tensor, timestep: int) -> Tensor:
        return predicted_noise(network(latent, timestep), latent, torch.tensor([timestep]), prediction)

    final = dpm_solver_sample(predict_noise, START, steps, prediction)
    assert (final - expected).abs().max() <= 2e-5


@pytest.mark.parametrize(("steps", "evaluations"), [(1, 1), (2, 1), (15, 14)])
def test_the_step_that_changes_nothing_is_not_computed(steps: int, evaluations: int) -> None:
    timesteps: list[int] = []
    reported: list[int] = []

    def predict(latent: Tensor, timestep: int) -> Tensor:
        timesteps.append(timestep)
        return network(latent, timestep)

    dpm_solver_sample(predict, START, steps, on_step=lambda index, _: reported.append(index))

    assert len(timesteps) == evaluations
    assert timesteps[0] == TRAIN_TIMESTEPS - 1
    assert timesteps == sorted(timesteps, reverse=True)
    assert reported == list(range(evaluations))


def test_fifteen_steps_lie_nearer_to_the_exact_trajectory_than_fifty_of_ddim() -> None:
    """On normally distributed data of deviation 0.5, whose best noise prediction is known."""
    alphas = alphas_cumprod().double()

    def predict(latent: Tensor, timestep: int) -> Tensor:
        alpha = float(alphas[timestep])
        return latent * (1 - alpha) ** 0.5 / (0.25 * alpha + 1 - alpha)

    exact, ddim = ddim_sample(predict, START, 999), ddim_sample(predict, START, 50)
    final = dpm_solver_sample(predict, START, 15)
    assert (final - exact).norm() < (ddim - exact).norm()


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_sample_does_not_depend_on_its_batch(prediction: Prediction) -> None:
    networks = small_networks()
    networks.prediction = prediction
    mask = (torch.rand((3, 1, 64, 64), generator=RNG) > 0.5).float().repeat(1, 3, 1, 1)
    context, unconditional = torch.randn((2, 3, 5, 32), generator=RNG).unbind()
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
            sampler="dpmpp-2m",
            prediction=prediction,
        )

    together, alone = sample([0, 1, 2]), sample([1])
    assert together.isfinite().all()
    assert float((alone - together[1:2]).norm()) <= 1e-5 * float(alone.norm())


def test_sampling_starts_from_each_seeds_own_noise() -> None:
    seen: list[Tensor] = []

    def predict(latent: Tensor, timestep: int) -> Tensor:
        seen.append(latent)
        return torch.zeros_like(latent)

    sample_latents(predict, [5, 6], height=64, width=128, steps=2, sampler="dpmpp-2m")

    assert torch.equal(seen[0][1:], starting_noise(6, 8, 16))
