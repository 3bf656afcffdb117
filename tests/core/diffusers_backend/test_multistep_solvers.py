"""Multistep solvers against diffusers' schedulers driven the plain way, and exact trajectories."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from siamese_core.architecture import Prediction
from siamese_core.diffusers_backend.mask_sampling import DEFAULT_STEPS
from siamese_core.diffusers_backend.multistep_solvers import (
    STOCHASTIC_SOLVERS,
    MultistepSolver,
    multistep_sample,
)
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
DETERMINISTIC = [solver for solver in get_args(MultistepSolver) if solver not in STOCHASTIC_SOLVERS]


def network(latent: Tensor, timestep: int) -> Tensor:
    """Stands for a network of either prediction: smooth, bounded, and of latent and timestep both."""
    return torch.tanh(0.7 * latent + timestep / TRAIN_TIMESTEPS + CLEAN)


def step_noise(step: int) -> Tensor:
    return torch.randn(START.shape, generator=torch.Generator().manual_seed(step))


def differences(
    solver: MultistepSolver,
    scheduler_class: Any,
    steps: int,
    left_out: int,
    prediction: Prediction,
    **options: str,
) -> Tensor:
    """How ``solver`` differs from diffusers' scheduler without the last ``left_out`` of its steps."""
    scheduler = scheduler_class(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule=BETA_SCHEDULE,
        prediction_type=prediction,
        use_karras_sigmas=True,
        **{"final_sigmas_type": "sigma_min", **options},
    )
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    expected = START
    for index, timestep in enumerate(scheduler.timesteps.tolist()[: steps - left_out]):
        noise = {"variance_noise": step_noise(index)} if solver in STOCHASTIC_SOLVERS else {}
        expected = scheduler.step(network(expected, timestep), timestep, expected, **noise).prev_sample

    def predict_noise(latent: Tensor, timestep: int) -> Tensor:
        return predicted_noise(network(latent, timestep), latent, torch.tensor([timestep]), prediction)

    found = multistep_sample(solver, predict_noise, START, steps, prediction, step_noise=step_noise)
    return (found - expected).abs()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 2, 8, 14, 15, 20, 50])
def test_dpm_solver_agrees_with_all_steps_of_diffusers(steps: int, prediction: Prediction) -> None:
    assert differences("dpmpp-2m", DPMSolverMultistepScheduler, steps, 0, prediction).max() <= 2e-5


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [2, 3, 8, 19, 50])
def test_unipc_agrees_with_diffusers_up_to_the_lowest_level(steps: int, prediction: Prediction) -> None:
    assert differences("unipc", UniPCMultistepScheduler, steps, 1, prediction).max() <= 2e-5


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 2, 8, 25])
def test_sde_dpm_solver_agrees_with_diffusers_down_to_no_noise(steps: int, prediction: Prediction) -> None:
    options = {"algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "zero"}
    found = differences("dpmpp-2m-sde", DPMSolverMultistepScheduler, steps, 0, prediction, **options)
    assert found.max() <= 2e-5


@pytest.mark.parametrize("solver", DETERMINISTIC)
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


def gaussian_noise(latent: Tensor, timestep: int) -> Tensor:
    """The best noise prediction for normally distributed data of deviation 0.5."""
    alpha = float(alphas_cumprod().double()[timestep])
    return latent * (1 - alpha) ** 0.5 / (0.25 * alpha + 1 - alpha)


@pytest.mark.parametrize("solver", DETERMINISTIC)
def test_the_default_steps_lie_nearer_to_the_exact_trajectory_than_fifty_of_ddim(
    solver: MultistepSolver,
) -> None:
    exact, ddim = ddim_sample(gaussian_noise, START, 999), ddim_sample(gaussian_noise, START, 50)
    final = multistep_sample(solver, gaussian_noise, START, DEFAULT_STEPS[solver])
    assert (final - exact).norm() < (ddim - exact).norm()


def test_stochastic_samples_have_the_distribution_of_the_data_and_forget_their_start() -> None:
    start = torch.randn((64, 4, 8, 8), generator=RNG)

    def sample(seed: int) -> Tensor:
        noise = torch.Generator().manual_seed(seed)
        return multistep_sample(
            "dpmpp-2m-sde",
            gaussian_noise,
            start,
            DEFAULT_STEPS["dpmpp-2m-sde"],
            step_noise=lambda step: torch.randn(start.shape, generator=noise),
        )

    first, second = sample(1), sample(2)
    assert abs(float(first.std()) - 0.5) < 0.02
    assert abs(float((first * second).mean())) < 0.02


def test_a_stochastic_solver_refuses_to_go_without_noise() -> None:
    with pytest.raises(ValueError, match="dpmpp-2m-sde needs step_noise"):
        multistep_sample("dpmpp-2m-sde", network, START, 3)
