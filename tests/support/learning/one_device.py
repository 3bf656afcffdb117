"""A check that code for a GPU would run on one: no mixing of devices, no waiting for the device's values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
_TRANSFERS = (_aten._to_copy.default, _aten.copy_.default)
# What these give depends on the content of a tensor, or is its content: the host waits for the device.
_WAITING = (
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.equal.default,
    _aten.is_nonzero.default,
)


class MixedDevices(AssertionError):
    """An operation on tensors of the device and of the CPU."""


class Waits(AssertionError):
    """An operation for which the host would wait until the device has come so far."""


class OneDevice(TorchDispatchMode):
    """Within the block, operations on tensors of ``device`` are those that a GPU would run without waiting.

    Numbers (0-d tensors) of the CPU may take part, as they may on CUDA, and tensors be copied to the device
    as ``non_blocking``. The meta device alone is not that strict: convolutions there accept weights on the
    CPU. ``may_wait`` permits waiting.
    """

    def __init__(self, device: str = "meta", *, may_wait: bool = False) -> None:
        super().__init__()
        self.device = torch.device(device)
        self.may_wait = may_wait

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        here = [tensor for tensor in tensors if tensor.device.type == self.device.type]
        if here and func in _WAITING and not self.may_wait:
            raise Waits(f"{func} on {[tuple(tensor.shape) for tensor in here]}")
        others = [tensor for tensor in tensors if tensor.device.type != self.device.type and tensor.ndim]
        result = func(*args, **(kwargs or {}))
        arrives = isinstance(result, Tensor) and result.device.type == self.device.type
        shapes = [(tuple(tensor.shape), tensor.device.type) for tensor in tensors]
        if func in _TRANSFERS:
            if others and arrives and not (self.may_wait or (kwargs or {}).get("non_blocking")):
                raise Waits(f"{func} on {shapes}")
        elif here and others:
            raise MixedDevices(f"{func} on {shapes}")
        return result
