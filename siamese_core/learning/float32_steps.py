"""Optimiser steps on temporary float32 copies of the weights, for bfloat16 weights and 8-bit optimisers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_BUCKET_BYTES = 64 << 20
"""Size of the float32 copies made at a time: a compromise between optimiser calls and memory."""


class Float32Steps:
    """Wraps an optimiser so that it steps contiguous float32 copies of the weights, one bucket at a time.

    The weights themselves keep their storage, dtype and memory format. Not every optimiser preserves these:
    bitsandbytes gives a ``channels_last`` weight new storage, which breaks modules that share the old one.
    Results for bfloat16 weights are rounded stochastically (:func:`to_bfloat16`) from ``seed``, which the
    caller sets before each step. A step consumes the gradients.

    ``make`` builds the wrapped optimiser from groups; ``param_groups`` holds the weights and its settings,
    ``state_dict`` is its own.
    """

    def __init__(
        self, groups: list[dict[str, Any]], make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    ) -> None:
        self.param_groups = groups
        self.seed = 0
        self._copies = {
            weight: nn.Parameter(_nothing(weight)) for group in groups for weight in group["params"]
        }
        copied = [
            {**group, "params": [self._copies[weight] for weight in group["params"]]} for group in groups
        ]
        self._optimizer = make(copied)
        self._take_settings()

    @torch.no_grad()
    def step(self) -> None:
        """Update every weight that has a gradient, and drop the gradients."""
        for group, own in zip(self.param_groups, self._optimizer.param_groups, strict=True):
            own.update(_without_weights(group))
        draws: dict[torch.device, torch.Generator] = {}
        for bucket in self._buckets():
            for weight in bucket:
                assert weight.grad is not None
                copy = self._copies[weight]
                copy.data, copy.grad = _plain(weight.detach()), _plain(weight.grad)
                weight.grad = None
            self._optimizer.step()
            for weight in bucket:
                copy = self._copies[weight]
                copy.grad = None
                if weight.dtype == torch.bfloat16:
                    if weight.device not in draws:
                        draws[weight.device] = torch.Generator(weight.device).manual_seed(self.seed)
                    weight.copy_(to_bfloat16(copy.data, draws[weight.device]))
                elif not weight.is_contiguous():  # otherwise the copy shares the weight's storage
                    weight.copy_(copy.data)
                copy.data = _nothing(weight)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, whatever ``set_to_none`` says."""
        for weight in self._copies:
            weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of the wrapped optimiser, saved with this wrapper or without it."""
        self._optimizer.load_state_dict(dict(state))
        self._take_settings()

    def _take_settings(self) -> None:
        for group, own in zip(self.param_groups, self._optimizer.param_groups, strict=True):
            group.update(_without_weights(own))

    def _buckets(self) -> Iterator[list[nn.Parameter]]:
        bucket: list[nn.Parameter] = []
        size = 0
        for weight in self._copies:
            if weight.grad is None:
                continue
            bucket.append(weight)
            size += weight.numel() * 4
            if size >= _BUCKET_BYTES:
                yield bucket
                bucket, size = [], 0
        if bucket:
            yield bucket


def to_bfloat16(values: Tensor, draws: torch.Generator) -> Tensor:
    """Round finite float32 ``values`` (any shape) stochastically to bfloat16 values, returned as float32.

    Each goes to one of its two bfloat16 neighbours, with probabilities that preserve the value in expectation
    (Gupta et al. 2015, arXiv 1502.02551). Updates below the spacing of bfloat16 numbers, 1/256 to 1/128 of a
    value, therefore add up instead of being lost.
    """
    # bfloat16 drops the lower 16 bits of a float32; random bits added there carry into the upper half with
    # the right probability.
    shape, device = values.shape, values.device
    noise = torch.randint(0, 1 << 16, shape, dtype=torch.int32, device=device, generator=draws)
    return noise.add_(values.view(torch.int32)).bitwise_and_(-1 << 16).view(torch.float32)


def hold_in_bfloat16(network: nn.Module) -> None:
    """Convert the weights of ``network``'s convolutions and linear layers to bfloat16, in place.

    These are nearly all of its parameters. Biases and normalisation layers stay float32; autocast reconciles
    the dtypes in the forward pass.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            weight = module.weight
            module.weight = nn.Parameter(weight.detach().to(torch.bfloat16), weight.requires_grad)


def _plain(tensor: Tensor) -> Tensor:
    """``tensor`` itself if it is float32 and contiguous, else a contiguous float32 copy."""
    return tensor.to(torch.float32).contiguous()


def _nothing(weight: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.float32, device=weight.device)


def _without_weights(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}
