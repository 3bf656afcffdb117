"""Noise that the host's stochastic samplers add at each step, drawn for each sample from its own seed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import comfy.samplers
import torch
from comfy.k_diffusion.sampling import BrownianTreeNoiseSampler
from torch import Tensor

from ...siamese_core.seeds import step_noise

_OVERLAPPING = ("dpmpp_sde", "dpmpp_sde_gpu")
"""Samplers that ask for the noise of intervals that overlap, and so need a Brownian motion."""


def seeded_sampler(name: str, noise: Tensor, sigmas: Tensor, seeds: Sequence[int]) -> Any:
    """The host's sampler ``name`` for ``noise`` (B, 4, h, w), such that no sample depends on its batch.

    The host draws the noise of a batch as a whole, by one seed; here each of ``seeds`` has its own.
    ``sigmas`` are the noise levels from high to low, on the device that samples. Samplers that add no noise
    are left as they are.
    """
    sampler = comfy.samplers.sampler_object(name)
    function = getattr(sampler, "sampler_function", None)
    if function is not None and "noise_sampler" in inspect.signature(function).parameters:
        noise_sampler = _brownian if name in _OVERLAPPING else _drawn
        sampler.extra_options = {
            **sampler.extra_options,
            "noise_sampler": noise_sampler(noise, sigmas, seeds),
        }
    return sampler


def _drawn(noise: Tensor, sigmas: Tensor, seeds: Sequence[int]) -> Callable[[Any, Any], Tensor]:
    """Noise of the i-th call as in the headless command's i-th step."""
    height, width = noise.shape[-2:]
    calls = count()

    def draw(sigma: Any, sigma_next: Any) -> Tensor:
        step = next(calls)
        return torch.cat([step_noise(step, seed, height, width) for seed in seeds]).to(sigmas.device)

    return draw


def _brownian(noise: Tensor, sigmas: Tensor, seeds: Sequence[int]) -> Callable[[Any, Any], Tensor]:
    levels = sigmas[sigmas > 0]
    tree: Callable[[Any, Any], Tensor] = BrownianTreeNoiseSampler(
        noise, levels.min(), levels.max(), seed=list(seeds), cpu=True
    )
    return tree
