"""Solvers that reuse earlier predictions, by diffusers' schedulers, on Karras noise levels.

DPM-Solver++(2M): Lu et al. 2022, arXiv 2211.01095. UniPC of order 2: Zhao et al. 2023, arXiv 2302.04867.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from ..architecture import Prediction
from ..method.ddim import NoisePredictor
from ..method.noise_schedule import BETA_END, BETA_SCHEDULE, BETA_START, TRAIN_TIMESTEPS, training_target

MultistepSolver = Literal["dpmpp-2m", "unipc"]

_SCHEDULERS: dict[MultistepSolver, Any] = {
    "dpmpp-2m": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}


def multistep_sample(
    solver: MultistepSolver,
    predict_noise: NoisePredictor,
    latent: Tensor,
    steps: int,
    prediction: Prediction = "epsilon",
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Denoise ``latent`` (B, 4, h, w), drawn from a standard normal, along ``steps`` noise levels.

    The levels are spaced as in Karras et al. 2022 (arXiv 2206.00364, eq. 5) and end, like the published DDIM,
    at the noise of timestep 0. They fall between integer timesteps, where noise and v predictions of one
    timestep imply slightly different clean latents, so the solver works on ``prediction``, the type that the
    networks behind ``predict_noise`` were trained for. At the last level nothing is predicted, so there are
    ``steps - 1`` network evaluations, but at least one. ``on_step(i, latent)`` is called after each. On a GPU
    UniPC waits for the device once per step, to solve two linear equations; DPM-Solver++ does not wait.
    """
    scheduler = _SCHEDULERS[solver](
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule=BETA_SCHEDULE,
        prediction_type=prediction,
        use_karras_sigmas=True,
        final_sigmas_type="sigma_min",
    )
    scheduler.set_timesteps(max(2, steps))
    scheduler.set_begin_index(0)  # or it would look its index up among timesteps that may be equal
    # The scheduler also ends at the lowest level, so its last step, from that level to itself, is left out.
    for index, timestep in enumerate(scheduler.timesteps.tolist()[:-1]):
        noise = predict_noise(latent, timestep)
        at = torch.full((1,), timestep, device=latent.device)
        output = training_target(latent, noise, at, prediction)
        latent = scheduler.step(output, timestep, latent).prev_sample
        if on_step is not None:
            on_step(index, latent)
    return latent
