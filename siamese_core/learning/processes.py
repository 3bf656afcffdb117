"""What several processes of one training run agree on, through accelerate."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, distributed

from ..errors import UserError

T = TypeVar("T")

_BUCKET_BYTES = 64 << 20  # gradients averaged at a time: few messages, little memory
_POLL_SECONDS = 1.0
_REPLICATED = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_XPU,
)


class ProcessesError(UserError):
    """A way of sharing the work that Siamese training cannot run under."""


def refuse_sharded_weights(accelerator: Accelerator) -> None:
    """Raise ProcessesError unless every process holds all weights (plain data parallelism)."""
    kind = accelerator.distributed_type
    if kind not in _REPLICATED:
        raise ProcessesError(
            f"training does not run under {kind.value}: the image branch reads the decoder's weights through "
            "a second module that shares their storage, which weights in shards do not have. Choose plain "
            "multi-GPU in 'accelerate config'; to save memory use --gradient-checkpointing, --micro-batches "
            "and --optimiser adamw8bit"
        )


def average(accelerator: Accelerator, tensors: Sequence[Tensor]) -> None:
    """Replace ``tensors``, of one type and device, by their means over all processes.

    Every process calls this once a step however many backward passes its samples needed, so that none waits
    for one that another does not make.
    """
    if accelerator.num_processes == 1:
        return
    bucket: list[Tensor] = []
    for index, tensor in enumerate(tensors):
        bucket.append(tensor)
        if index + 1 == len(tensors) or sum(part.nbytes for part in bucket) >= _BUCKET_BYTES:
            means = accelerator.reduce(torch.cat([part.flatten() for part in bucket]), "mean")
            parts = means.split([part.numel() for part in bucket])
            for part, mean in zip(bucket, parts, strict=True):
                part.copy_(mean.view_as(part))
            bucket = []


def highest(accelerator: Accelerator) -> Callable[[int], int]:
    """A function that returns the highest of the numbers that the processes call it with.

    It runs between the hosts alone: asking costs no synchronisation with a GPU.
    """
    if accelerator.num_processes == 1:
        return lambda number: number
    group: Any = distributed.new_group(backend="gloo")

    def reduce(number: int) -> int:
        value = torch.tensor(number)
        distributed.all_reduce(value, distributed.ReduceOp.MAX, group=group)
        return int(value)

    return reduce


def wait_for(find: Callable[[], T | None]) -> T:
    """What ``find`` returns, once it does: for work of hours elsewhere, which no barrier would outlast."""
    while (found := find()) is None:
        time.sleep(_POLL_SECONDS)
    return found
