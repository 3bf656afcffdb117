"""Seeds: every random draw is a pure function of a base seed and a position, without global state."""

from __future__ import annotations

import zlib
from functools import lru_cache

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def _splitmix64(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def sample_seed(seed: int, index: int) -> int:
    """The seed of sample ``index`` of a dataset: ``seed`` itself for index 0, else a 64-bit hash of both."""
    if index == 0:
        return seed
    return _splitmix64(_splitmix64(seed & _MASK) ^ index)


def stream_seed(seed: int, stream: str, position: int = 0) -> int:
    """The 64-bit seed for ``position`` in a named stream of draws (``"noise"``, ``"order"``, ...)."""
    return _splitmix64(_splitmix64((seed & _MASK) ^ zlib.crc32(stream.encode())) ^ position)


def generator(seed: int) -> torch.Generator:
    """A new CPU generator; ``seed`` is any integer, taken modulo 2**64."""
    return torch.Generator().manual_seed(seed & _MASK)


def starting_noise(seed: int, height: int, width: int, channels: int = 4) -> Tensor:
    """The initial latent of one sample: standard normal noise ``(1, channels, height, width)``, float32, CPU.

    It is drawn separately for each sample, with ComfyUI's values, so that a sample does not depend on its
    batch. ``height`` and ``width`` are those of the latent.
    """
    return torch.randn((1, channels, height, width), generator=generator(seed))


def step_noise(step: int, seed: int, height: int, width: int) -> Tensor:
    """Noise for one step of a stochastic sampler, (1, 4, height, width), drawn like the initial latent."""
    return starting_noise(stream_seed(seed, "sampling", step), height, width)


def epoch_order(seed: int, step: int, batch_size: int, count: int) -> list[int]:
    """Indices (0..``count`` - 1) of batch ``step``: consecutive slices of one shuffled order per epoch.

    The last, short batch of an epoch is filled from the next epoch's order, so that every step has
    ``batch_size`` samples and every sample is used once before any is used twice. ``count`` may be smaller
    than ``batch_size``.
    """
    return shuffled_places(seed, step * batch_size, batch_size, count, "order")


def shuffled_places(seed: int, start: int, length: int, count: int, stream: str) -> list[int]:
    """``length`` numbers of 0..``count`` - 1 from position ``start`` of an endless sequence.

    The sequence is a concatenation of shuffled orders; ``stream`` names it, as in :func:`stream_seed`.
    """
    places: list[int] = []
    while len(places) < length:
        epoch, offset = divmod(start + len(places), count)
        order = _shuffled(seed, epoch, count, stream)
        places += order[offset : offset + length - len(places)].tolist()
    return places


@lru_cache(maxsize=4)  # enough for two streams that cross from one order to the next
def _shuffled(seed: int, epoch: int, count: int, stream: str) -> Tensor:
    return torch.randperm(count, generator=generator(stream_seed(seed, stream, epoch)))
