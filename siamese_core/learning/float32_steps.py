"""An optimiser's steps on float32 copies of weights that are bfloat16, or that it must not replace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_BUCKET_BYTES = 64 << 20
"""Of the weights that have copies at a time: few calls of the optimiser, little memory."""


class Float32Steps:
    """An optimiser that is shown contiguous float32 copies of its weights, some at a time.

    The weights keep storage, number format and memory layout, which not every optimiser sees to: that of
    bitsandbytes gives a weight in ``channels_last`` a new storage, and whoever shares the old one is left
    behind. What a step makes of a bfloat16 weight is rounded stochastically (:func:`to_bfloat16`), with
    random numbers of ``seed``, which whoever steps has to set for each step. Gradients are used up.

    ``param_groups`` and ``state_dict`` are those of the optimiser, which ``make`` builds from groups.
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
        """Change every weight that has a gradient."""
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
                elif not weight.is_contiguous():  # else the copy is the weight itself
                    weight.copy_(copy.data)
                copy.data = _nothing(weight)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients; they are never set to zero."""
        for weight in self._copies:
            weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state`` of such an optimiser, with these weights' copies or without copies."""
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
    """Finite float32 ``values``, each rounded to one of its two bfloat16 neighbours, as float32.

    The nearer one is the more probable, so that the mean is the value itself and changes below the spacing of
    bfloat16 numbers, 1/128 to 1/256 of a value, add up (Gupta et al. 2015, arXiv 1502.02551).
    """
    # The lower half of a float32's bits is what bfloat16 leaves out: adding to it carries over now and then.
    shape, device = values.shape, values.device
    noise = torch.randint(0, 1 << 16, shape, dtype=torch.int32, device=device, generator=draws)
    return noise.add_(values.view(torch.int32)).bitwise_and_(-1 << 16).view(torch.float32)


def hold_in_bfloat16(network: nn.Module) -> None:
    """Turn the weights of ``network``'s convolutions and linear layers into bfloat16, in place.

    They are nearly all of it. Biases and normalisations stay float32; autocast brings both together.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            weight = module.weight
            module.weight = nn.Parameter(weight.detach().to(torch.bfloat16), weight.requires_grad)


def _plain(tensor: Tensor) -> Tensor:
    """``tensor`` itself where it is float32 and contiguous, else a copy that is."""
    return tensor.to(torch.float32).contiguous()


def _nothing(weight: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.float32, device=weight.device)


def _without_weights(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}
