"""A resumable step loop on accelerate: progress, JSONL and TensorBoard logs, checkpoints, clean stops.

Every random draw of a step comes from the run's seed and the step's number (``seeds``), so a checkpoint is
the state of models and optimiser plus the number of steps done, and a resumed run repeats the uninterrupted
one exactly.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

from ..files import replace_folder, write_text_atomic
from ..run_record import ResumeError, check_record
from ..stop_requests import Interrupted, stop_requests
from .processes import highest

RECORD_NAME = "record.json"


@dataclass(frozen=True)
class CheckpointStore:
    """Checkpoints of one run: ``folder/step-00000500/``, the newest ``keep`` of them.

    A checkpoint is written under a temporary name, synced and renamed; older ones go only after that.
    ``record`` identifies the run (kind, settings, data); a checkpoint with another record is foreign.
    """

    folder: Path
    record: Mapping[str, Any]
    keep: int = 2

    def save(self, accelerator: Accelerator, step: int) -> None:
        """Write the checkpoint of ``step`` done steps; to be called by all processes.

        Raises ResumeError when it cannot be written, on a full disk for instance; older ones are unharmed.
        """
        target = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".tmp-step-{step:08d}"
        if accelerator.is_main_process:
            for torn in self.folder.glob(".tmp-*"):  # left by a run that was killed while saving
                shutil.rmtree(torn, ignore_errors=True)
        accelerator.wait_for_everyone()
        try:
            accelerator.save_state(str(temporary))
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                record = json.dumps({**self.record, "step": step}, indent=1)
                write_text_atomic(temporary / RECORD_NAME, record)
                replace_folder(temporary, target)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own
            shutil.rmtree(temporary, ignore_errors=True)
            kept = self._finished()
            advice = f"--resume goes on from {kept[-1].name}" if kept else "no earlier checkpoint is there"
            raise ResumeError(
                f"{target}: the checkpoint could not be written ({error}); make room on the disk or mend the "
                f"folder: {advice}"
            ) from error
        if accelerator.is_main_process:
            for old in self._finished()[: -self.keep]:
                shutil.rmtree(old)
        accelerator.wait_for_everyone()  # a process that ended early would have the launcher end the others

    def restore(self, accelerator: Accelerator, may_differ: tuple[str, ...] = ()) -> int:
        """Load the newest checkpoint into the prepared objects and return its step.

        Raises ResumeError when there is none or when its record differs in a key not in ``may_differ``.
        """
        path = self.latest()
        check_record(path, json.loads((path / RECORD_NAME).read_text("utf-8")), self.record, may_differ)
        accelerator.load_state(str(path))
        return int(path.name.removeprefix("step-"))

    def latest(self) -> Path:
        finished = self._finished()
        if not finished:
            raise ResumeError(
                f"{self.folder}: no checkpoint to resume from; give the --output of the interrupted run, "
                "or start a new one without --resume in an empty folder"
            )
        return finished[-1]

    def exists(self) -> bool:
        return bool(self._finished())

    def _finished(self) -> list[Path]:
        return sorted(path.parent for path in self.folder.glob(f"step-*/{RECORD_NAME}"))


@dataclass(frozen=True)
class LoopSettings:
    """How long a loop runs and how often it saves and reports, in optimiser steps.

    ``is_last`` tells that the work ends with this loop, so that a stop in its last step is no interruption.
    """

    steps: int
    save_every: int = 500
    log_every: int = 10
    is_last: bool = True


def run_steps(
    step_function: Callable[[int], Mapping[str, Tensor]],
    settings: LoopSettings,
    *,
    accelerator: Accelerator,
    checkpoints: CheckpointStore,
    log_path: Path,
    first: int = 0,
    label: str = "training",
    after_step: Callable[[int], None] | None = None,
) -> None:
    """Call ``step_function(k)`` for k in ``first .. steps - 1`` and log the scalars it returns.

    ``step_function`` returns detached 0-d tensors; they are read (one device synchronisation) only every
    ``log_every`` steps, as means over all processes. ``after_step(k + 1)`` runs after each step, on every
    process. On SIGINT or SIGTERM to any process the step is finished, a checkpoint saved and Interrupted
    raised in all of them.
    """
    is_main = accelerator.is_main_process
    log = _StepLog(log_path, first) if is_main else None
    pending: list[tuple[int, Mapping[str, Tensor]]] = []
    progress = tqdm(total=settings.steps, initial=first, desc=label, disable=not is_main, mininterval=1.0)
    highest_of_all = highest(accelerator)

    def flush() -> None:
        if not pending:
            return
        names = list(pending[0][1])
        table = torch.stack([torch.stack([row[name].float() for name in names]) for _, row in pending])
        values = accelerator.reduce(table, "mean").tolist()  # the one read from the device
        rows = [
            {"step": k, **dict(zip(names, line, strict=True))}
            for (k, _), line in zip(pending, values, strict=True)
        ]
        pending.clear()
        if log is None:
            return
        log.write(rows)
        scalars = {name: value for name, value in rows[-1].items() if name != "step"}
        accelerator.log({f"{label}/{name}": value for name, value in scalars.items()}, step=rows[-1]["step"])
        progress.set_postfix({name: f"{value:.4f}" for name, value in scalars.items()}, refresh=False)

    # Gradients through convolutions that start at zero are tiny; on a CPU arithmetic with denormal numbers
    # made such steps three times as slow.
    torch.set_flush_denormal(True)
    with stop_requests() as requests, progress:
        for k in range(first, settings.steps):
            pending.append((k, step_function(k)))
            done = k + 1
            progress.update()
            stop = highest_of_all(requests[0] if requests else 0)
            saving = done % settings.save_every == 0 or done == settings.steps or stop > 0
            if done % settings.log_every == 0 or saving:  # a checkpoint never knows more than the log
                flush()
            if after_step is not None:
                after_step(done)
            if saving:
                checkpoints.save(accelerator, done)
            if stop and not (settings.is_last and done == settings.steps):
                raise Interrupted(done, stop)


class _StepLog:
    """A JSONL file, one line per step; lines of steps about to be repeated are dropped on opening."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        kept: list[str] = []
        if first and path.exists():
            for line in path.read_text("utf-8").splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # a line torn by a kill
                    if json.loads(line)["step"] < first:
                        kept.append(line + "\n")
        write_text_atomic(path, "".join(kept))

    def write(self, rows: list[dict[str, float]]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
