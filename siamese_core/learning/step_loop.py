"""A resumable loop over training steps: progress bar, loss log, checkpoints, clean interruption."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..files import write_text_atomic
from ..stop_requests import Interrupted, stop_requests
from .checkpoints import CheckpointStore, TrainedState
from .engine import Engine, is_main

Report = Callable[[int, Mapping[str, float]], None]
"""``(k, losses)``: called with step k's losses, averaged over all processes, whenever they are read."""


@dataclass(frozen=True)
class LoopSettings:
    """Length of a loop and its intervals of saving and logging, in optimiser steps.

    ``is_last``: no work follows this loop, so a stop request during its last step is not an interruption.
    """

    steps: int
    save_every: int = 500
    log_every: int = 10
    is_last: bool = True


def run_steps(
    step_function: Callable[[int], Mapping[str, Tensor]],
    settings: LoopSettings,
    *,
    engine: Engine,
    state: TrainedState,
    checkpoints: CheckpointStore,
    log_path: Path,
    first: int = 0,
    label: str = "training",
    report: Report = lambda step, values: None,
    after_step: Callable[[int], None] = lambda done: None,
    stopped_by: type[BaseException] | tuple[type[BaseException], ...] = (),
) -> None:
    """Call ``step_function(k)`` for k in ``first .. steps - 1`` and log the scalars it returns.

    ``step_function`` changes ``state`` and returns detached 0-d tensors. They are read only every
    ``log_every`` steps (one device synchronisation), as means over all processes; the main process then calls
    ``report(k, values)`` with those of the latest step. ``after_step(k + 1)`` runs after each step, in every
    process.

    On SIGINT or SIGTERM to any process, all of them finish the step, save a checkpoint and raise Interrupted.
    An exception of type ``stopped_by`` discards the step it ends, saves the steps before it and propagates.
    """
    log = _StepLog(log_path, first) if is_main(engine) else None
    pending: list[tuple[int, Mapping[str, Tensor]]] = []
    progress = tqdm(total=settings.steps, initial=first, desc=label, disable=log is None, mininterval=1.0)

    def flush() -> None:
        if not pending:
            return
        names = list(pending[0][1])
        table = torch.stack([torch.stack([row[name].float() for name in names]) for _, row in pending])
        engine.average([table])
        values = [dict(zip(names, line, strict=True)) for line in table.tolist()]  # the only device read
        steps = [k for k, _ in pending]
        pending.clear()
        if log is None:
            return
        log.write([{"step": k, **row} for k, row in zip(steps, values, strict=True)])
        report(steps[-1], values[-1])
        progress.set_postfix({name: f"{value:.4f}" for name, value in values[-1].items()}, refresh=False)

    done = saved = first
    with _flushed_denormals(), stop_requests() as requests, progress:
        try:
            for k in range(first, settings.steps):
                pending.append((k, step_function(k)))
                done = k + 1
                progress.update()
                stop = engine.highest(requests[0] if requests else 0)
                saving = done % settings.save_every == 0 or done == settings.steps or stop > 0
                if done % settings.log_every == 0 or saving:  # the log is never behind a checkpoint
                    flush()
                if saving:
                    checkpoints.save(state, done, engine)
                    saved = done
                after_step(done)  # what fails here costs no steps
                if stop and not (settings.is_last and done == settings.steps):
                    raise Interrupted(done, stop)
        except stopped_by:
            if done > saved:
                flush()
                checkpoints.save(state, done, engine)
            raise


@contextlib.contextmanager
def _flushed_denormals() -> Iterator[None]:
    """Within the block the CPU flushes denormal numbers to 0.

    Gradients through convolutions that start at zero are tiny, and denormal arithmetic made such steps three
    times slower. Reset afterwards, so that the host's own computations are unaffected.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class _StepLog:
    """A JSONL file with one line per step; opening it drops lines of steps from ``first`` on."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        kept: list[str] = []
        if first and path.exists():
            for line in path.read_text("utf-8").splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # a line left incomplete by a kill
                    if json.loads(line)["step"] < first:
                        kept.append(line + "\n")
        write_text_atomic(path, "".join(kept))

    def write(self, rows: list[dict[str, float]]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
