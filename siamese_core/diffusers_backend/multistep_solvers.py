"""Solvers that reuse earlier predictions, by diffusers' schedulers, on Karras noise levels.

DPM-Solver++(2M) and its stochastic form SDE-DPM-Solver++(2M): Lu et al. 2022, arXiv 2211.01095.
UniPC of order 2: Zhao et al. 2023, arXiv 2302.04867.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from ..architecture import Prediction
from ..method.ddim import NoisePredictor
from ..method.noise_schedule import BETA_END, BETA_SCHEDULE, BETA_START, TRAIN_TIMESTEPS, training_target

MultistepSolver = Literal["dpmpp-2m", "unipc", "dpmpp-2m-sde"]
STOCHASTIC_SOLVERS: tuple[MultistepSolver, ...] = ("dpmpp-2m-sde",)

_SCHEDULERS: dict[MultistepSolver, Any] = {
    "dpmpp-2m": partial(DPMSolverMultistepScheduler, final_sigmas_type="sigma_min"),
    "unipc": partial(UniPCMultistepScheduler, final_sigmas_type="sigma_min"),
    # Fresh noise of the lowest level would stay in the result, so this one goes on to no noise.
    "dpmpp-2m-sde": partial(
        DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++", final_sigmas_type="zero"
    ),
}


def multistep_sample(
    solver: MultistepSolver,
    predict_noise: NoisePredictor,
    latent: Tensor,
    steps: int,
    prediction: Prediction = "epsilon",
    on_step: Callable[[int, Tensor], None] | None = None,
    step_noise: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Denoise ``latent`` (B, 4, h, w), drawn from a standard normal, along ``steps`` noise levels.

    The levels are spaced as in Karras et al. 2022 (arXiv 2206.00364, eq. 5). They fall between integer
    timesteps, where noise and v predictions of one timestep imply slightly different clean latents, so the
    solver works on ``prediction``, the type that the networks behind ``predict_noise`` were trained for.
    ``on_step(i, latent)`` is called after each network evaluation.

    The deterministic solvers end, like the published DDIM, at the noise of timestep 0, where nothing is
    predicted: ``steps - 1`` network evaluations, but at least one. On a GPU UniPC waits for the device once
    per step, to solve two linear equations; DPM-Solver++ does not wait.

    ``dpmpp-2m-sde`` replaces part of the noise at step i by ``step_noise(i)``, standard normal (B, 4, h, w),
    and goes on to the clean latent: ``steps`` network evaluations. Raises ValueError if it has no
    ``step_noise``; the other solvers do not use it.
    """
    scheduler = _SCHEDULERS[solver](
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule=BETA_SCHEDULE,
        prediction_type=prediction,
        use_karras_sigmas=True,
    )
    stochastic = solver in STOCHASTIC_SOLVERS
    scheduler.set_timesteps(steps if stochastic else max(2, steps))
    scheduler.set_begin_index(0)  # or it would look its index up among timesteps that may be equal
    timesteps = scheduler.timesteps.tolist()
    if stochastic:
        if step_noise is None:
            raise ValueError(f"{solver} needs step_noise")
    else:
        step_noise, timesteps = None, timesteps[:-1]  # the last step leads from the lowest level to itself
    for index, timestep in enumerate(timesteps):
        # Drawn first: on a GPU its copy would otherwise wait for the network.
        fresh = {} if step_noise is None else {"variance_noise": step_noise(index)}
        noise = predict_noise(latent, timestep)
        at = torch.full((1,), timestep, device=latent.device)
        output = training_target(latent, noise, at, prediction)
        latent = scheduler.step(output, timestep, latent, **fresh).prev_sample
        if on_step is not None:
            on_step(index, latent)
    return latent
