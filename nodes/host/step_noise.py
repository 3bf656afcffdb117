"""Noise that the host's stochastic samplers add at each step, drawn for each sample from its own seed."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import comfy.samplers
from comfy.k_diffusion.sampling import BrownianTreeNoiseSampler
from torch import Tensor


def seeded_sampler(name: str, noise: Tensor, sigmas: Tensor, seeds: Sequence[int]) -> Any:
    """The host's sampler ``name`` for ``noise`` (B, 4, h, w), such that no sample depends on its batch.

    The host draws the noise of a batch as a whole, by one seed. Here each of ``seeds`` has a Brownian
    motion of its own over ``sigmas``, the noise levels from high to low. Samplers that add no noise are left
    as they are.
    """
    sampler = comfy.samplers.sampler_object(name)
    if "noise_sampler" in inspect.signature(sampler.sampler_function).parameters:
        levels = sigmas[sigmas > 0]
        of_each = BrownianTreeNoiseSampler(noise, levels.min(), levels.max(), seed=list(seeds), cpu=True)
        sampler.extra_options = {**sampler.extra_options, "noise_sampler": of_each}
    return sampler
