"""Training under accelerate, in one process or data-parallel in several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, distributed

from ..errors import UserError
from ..learning.step_loop import Report

_BUCKET_BYTES = 64 << 20  # size of a message when averaging: a compromise between messages and memory
_REPLICATED = (
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_XPU,
)


class ProcessesError(UserError):
    """A distributed setup that Siamese training does not support."""


class AccelerateEngine:
    """The :class:`Engine` of a process launched by accelerate.

    Raises ProcessesError unless every process holds all weights (plain data parallelism).
    """

    def __init__(self, accelerator: Accelerator) -> None:
        kind = accelerator.distributed_type
        if kind not in _REPLICATED:
            raise ProcessesError(
                f"training does not run under {kind.value}: the image branch reads the decoder's weights "
                "through a second module that shares their storage, which weights in shards do not have. "
                "Choose plain multi-GPU in 'accelerate config'; to save memory use --gradient-checkpointing, "
                "--micro-batches and --optimiser adamw8bit"
            )
        self._accelerator = accelerator
        self.device: torch.device = accelerator.device
        self.process: int = accelerator.process_index
        self.processes: int = accelerator.num_processes
        # A CPU process group, so that `highest` needs no GPU synchronisation.
        self._hosts: Any = distributed.new_group(backend="gloo") if self.processes > 1 else None

    def average(self, tensors: Sequence[Tensor]) -> None:
        if self.processes == 1:
            return
        bucket: list[Tensor] = []
        for index, tensor in enumerate(tensors):
            bucket.append(tensor)
            if index + 1 == len(tensors) or sum(part.nbytes for part in bucket) >= _BUCKET_BYTES:
                means = self._accelerator.reduce(torch.cat([part.flatten() for part in bucket]), "mean")
                parts = means.split([part.numel() for part in bucket])
                for part, mean in zip(bucket, parts, strict=True):
                    part.copy_(mean.view_as(part))
                bucket = []

    def highest(self, number: int) -> int:
        if self.processes == 1:
            return number
        value = torch.tensor(number)
        distributed.all_reduce(value, distributed.ReduceOp.MAX, group=self._hosts)
        return int(value)

    def wait_for_all(self) -> None:
        self._accelerator.wait_for_everyone()


def tracked(accelerator: Accelerator, label: str) -> Report:
    """A ``report`` for :func:`run_steps` that logs to ``accelerator``'s trackers under ``label``."""

    def report(step: int, values: Mapping[str, float]) -> None:
        accelerator.log({f"{label}/{name}": value for name, value in values.items()}, step=step)

    return report
