"""DPM-Solver++(2M) and UniPC against diffusers' schedulers driven the plain way, and exact trajectories."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from siamese_core.architecture import Prediction
from siamese_core.diffusers_backend.mask_sampling import DEFAULT_STEPS
from siamese_core.diffusers_backend.multistep_solvers import MultistepSolver, multistep_sample
from siamese_core.method.ddim import ddim_sample
from siamese_core.method.noise_schedule import (
    BETA_END,
    BETA_SCHEDULE,
    BETA_START,
    TRAIN_TIMESTEPS,
    alphas_cumprod,
    predicted_noise,
)

RNG = torch.Generator().manual_seed(4)
CLEAN = torch.randn((2, 4, 8, 8), generator=RNG)
START = torch.randn((2, 4, 8, 8), generator=RNG)


def network(latent: Tensor, timestep: int) -> Tensor:
    """Stands for a network of either prediction: smooth, bounded, and of latent and timestep both."""
    return torch.tanh(0.7 * latent + timestep / TRAIN_TIMESTEPS + CLEAN)


def differences(
    solver: MultistepSolver, scheduler_class: Any, steps: int, left_out: int, prediction: Prediction
) -> Tensor:
    """How ``solver`` differs from diffusers' scheduler without the last ``left_out`` of its steps."""
    scheduler = scheduler_class(
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
    for timestep in scheduler.timesteps.tolist()[: steps - left_out]:
        expected = scheduler.step(network(expected, timestep), timestep, expected).prev_sample

    def predict_noise(latent: Tensor, timestep: int) -> Tensor:
        return predicted_noise(network(latent, timestep), latent, torch.tensor([timestep]), prediction)

    return (multistep_sample(solver, predict_noise, START, steps, prediction) - expected).abs()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 2, 8, 14, 15, 20, 50])
def test_dpm_solver_agrees_with_all_steps_of_diffusers(steps: int, prediction: Prediction) -> None:
    assert differences("dpmpp-2m", DPMSolverMultistepScheduler, steps, 0, prediction).max() <= 2e-5


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [2, 3, 8, 19, 50])
def test_unipc_agrees_with_diffusers_up_to_the_lowest_level(steps: int, prediction: Prediction) -> None:
    assert differences("unipc", UniPCMultistepScheduler, steps, 1, prediction).max() <= 2e-5


@pytest.mark.parametrize("solver", get_args(MultistepSolver))
@pytest.mark.parametrize(("steps", "evaluations"), [(1, 1), (2, 1), (15, 14)])
def test_the_last_level_is_not_evaluated(solver: MultistepSolver, steps: int, evaluations: int) -> None:
    timesteps: list[int] = []
    reported: list[int] = []

    def predict(latent: Tensor, timestep: int) -> Tensor:
        timesteps.append(timestep)
        return network(latent, timestep)

    multistep_sample(solver, predict, START, steps, on_step=lambda index, _: reported.append(index))

    assert len(timesteps) == evaluations
    assert timesteps[0] == TRAIN_TIMESTEPS - 1
    assert timesteps == sorted(timesteps, reverse=True)
    assert reported == list(range(evaluations))


@pytest.mark.parametrize("solver", get_args(MultistepSolver))
def test_the_default_steps_lie_nearer_to_the_exact_trajectory_than_fifty_of_ddim(
    solver: MultistepSolver,
) -> None:
    """On normally distributed data of deviation 0.5, whose best noise prediction is known."""
    alphas = alphas_cumprod().double()

    def predict(latent: Tensor, timestep: int) -> Tensor:
        alpha = float(alphas[timestep])
        return latent * (1 - alpha) ** 0.5 / (0.25 * alpha + 1 - alpha)

    exact, ddim = ddim_sample(predict, START, 999), ddim_sample(predict, START, 50)
    final = multistep_sample(solver, predict, START, DEFAULT_STEPS[solver])
    assert (final - exact).norm() < (ddim - exact).norm()
