"""Checkpoints of a training run: written atomically, restored exactly.

A checkpoint is the state of networks and optimisers plus the number of steps done. Random states are not
saved, because every draw of a step depends only on the run's seed and the step number (see ``seeds``). File
names follow accelerate, which wrote the first checkpoints.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .. import advice
from ..files import replace_folder, write_text_atomic
from ..resume_check import NoWholeCheckpoint, ResumeError, check_record
from .averaged_weights import AveragedWeights
from .engine import Engine, is_main

RECORD_NAME = "record.json"

_UNREADABLE = (
    *(OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError),
    *(SafetensorError, pickle.UnpicklingError),
)


class Optimiser(Protocol):
    """What a checkpoint needs of an optimiser: torch's own, or a wrapper around one."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any, /) -> None: ...


@dataclass(frozen=True)
class TrainedState:
    """The state that training steps change and a checkpoint stores.

    ``networks`` -> ``model.safetensors``, ``model_1.safetensors`` ...; ``optimizers`` -> ``optimizer.bin``,
    ``optimizer_1.bin`` ...; ``scaler`` (fp16) -> ``scaler.pt``; ``average`` -> ``custom_checkpoint_0.pkl``.
    """

    networks: Sequence[nn.Module]
    optimizers: Sequence[Optimiser]
    average: AveragedWeights | None = None
    scaler: torch.amp.GradScaler | None = None

    def write(self, folder: Path) -> None:
        """Write the state into the empty ``folder``.

        Raises OSError, RuntimeError (from torch) or SafetensorError when the disk is full, for instance.
        """
        for index, network in enumerate(self.networks):
            weights = {name: weight.contiguous() for name, weight in network.state_dict().items()}
            save_file(weights, _numbered(folder, "model", index, ".safetensors"), metadata={"format": "pt"})
        for path, part in self._pickled(folder):
            torch.save(part.state_dict(), path)

    def read(self, folder: Path, had_scaler: bool = True) -> Callable[[], None]:
        """Read what :meth:`write` wrote; the returned function makes it the current state.

        Nothing changes until that function is called. Without ``had_scaler`` the checkpoint comes from
        another precision, and the scaler keeps its initial scale. Raises one of ``_UNREADABLE`` when any part
        is damaged, missing or belongs to other networks.
        """
        weights = []
        for index, network in enumerate(self.networks):
            path = _numbered(folder, "model", index, ".safetensors")
            found = load_file(path)
            wanted = {name: weight.shape for name, weight in network.state_dict().items()}
            if {name: weight.shape for name, weight in found.items()} != wanted:
                raise ValueError(f"{path.name} holds the weights of another network")
            weights.append(found)
        states = [
            (part, torch.load(path, map_location="cpu", weights_only=True))
            for path, part in self._pickled(folder)
            if part is not self.scaler or had_scaler
        ]

        def apply() -> None:
            for network, found in zip(self.networks, weights, strict=True):
                network.load_state_dict(found)
            for part, state in states:
                part.load_state_dict(state)
            for optimizer in self.optimizers:
                _lay_out_as_weights(optimizer)

        return apply

    def _pickled(self, folder: Path) -> list[tuple[Path, Any]]:
        """The parts stored with ``torch.save``, each with its file."""
        parts: list[tuple[Path, Any]] = [
            (_numbered(folder, "optimizer", index, ".bin"), optimizer)
            for index, optimizer in enumerate(self.optimizers)
        ]
        if self.average is not None:
            parts.append((folder / "custom_checkpoint_0.pkl", self.average))
        if self.scaler is not None:
            parts.append((folder / "scaler.pt", self.scaler))
        return parts


def _lay_out_as_weights(optimizer: Any) -> None:
    """Give every state of a weight's shape the weight's strides.

    A checkpoint keeps those of the device it was written on, channels last on a GPU, and torch's fused AdamW
    on a CPU goes through weights and states as they lie in memory.
    """
    # Those of weights in 16 bits are made for contiguous copies of them.
    for weight, states in getattr(optimizer, "state", {}).items():
        for name, value in states.items():
            is_alike = isinstance(value, Tensor) and value.shape == weight.shape
            if is_alike and value.stride() != weight.stride():
                states[name] = torch.empty_like(weight, dtype=value.dtype, device=value.device).copy_(value)


def _numbered(folder: Path, name: str, index: int, suffix: str) -> Path:
    return folder / f"{name}{f'_{index}' if index else ''}{suffix}"


@dataclass(frozen=True)
class CheckpointStore:
    """Checkpoints of one run: ``folder/step-00000500/``, the newest ``keep`` of them.

    A checkpoint is written under a temporary name, synced and renamed; only then are older ones deleted.
    ``record`` identifies the run (kind, settings, data); checkpoints with another record are rejected.
    """

    folder: Path
    record: Mapping[str, Any]
    keep: int = 2

    def save(self, state: TrainedState, step: int, engine: Engine) -> None:
        """Write the checkpoint after ``step`` steps. Every process must call this; the main one writes.

        Raises ResumeError when it cannot be written (a full disk, for instance); older ones are left intact.
        """
        if is_main(engine):
            self._write(state, step)
        engine.wait_for_all()  # if another process exited first, the launcher would kill this one

    def _write(self, state: TrainedState, step: int) -> None:
        target = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".tmp-step-{step:08d}"
        for torn in self.folder.glob(".tmp-*"):  # left by a run that was killed while saving
            shutil.rmtree(torn, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            state.write(temporary)
            write_text_atomic(temporary / RECORD_NAME, json.dumps({**self.record, "step": step}, indent=1))
            replace_folder(temporary, target)
        except (OSError, RuntimeError, SafetensorError) as error:  # the latter two: torch and safetensors
            shutil.rmtree(temporary, ignore_errors=True)
            kept = self._finished()
            rest = f"{advice.CONTINUES} {kept[-1].name}" if kept else "there is no earlier checkpoint"
            raise ResumeError(
                f"{target}: the checkpoint could not be written ({error}); make room on the disk or repair "
                f"the folder: {rest}"
            ) from error
        # A newer one is damaged, or the run would have gone on from it: it counts for none that are kept.
        finished = self._finished()
        kept = [path for path in finished if path.name <= target.name][-self.keep :]
        for old in finished:
            if old not in kept:
                shutil.rmtree(old)

    def restore(
        self,
        state: TrainedState,
        may_differ: tuple[str, ...] = (),
        note: Callable[[str], None] = lambda text: None,
    ) -> int:
        """Restore ``state`` from the newest intact checkpoint and return its step.

        Damaged newer ones are reported through ``note``. Raises NoWholeCheckpoint when none can be read, and
        ResumeError when there is none and when the newest readable record differs from the run's in a key not
        in ``may_differ``.
        """
        damaged = []
        for path in reversed(self._finished() or [self.latest()]):
            try:
                record = json.loads((path / RECORD_NAME).read_text("utf-8"))
                check_record(path, record, self.record, may_differ)
                apply = state.read(path, had_scaler=record.get("mixed_precision", "fp16") == "fp16")
            except ResumeError:
                raise
            except _UNREADABLE as error:
                damaged.append(f"{path} is damaged ({_reason(error)})")
                continue
            apply()
            for text in damaged:
                note(f"{text}; resuming from {path.name}")
            return int(path.name.removeprefix("step-"))
        raise NoWholeCheckpoint(
            f"{'; '.join(damaged)}: no whole checkpoint is left to resume from; copy one back, or "
            f"{advice.NEW_RUN}"
        )

    def record_of(self, step: int) -> dict[str, Any]:
        """The record of the checkpoint of ``step``, which must exist and be intact."""
        text = (self.folder / f"step-{step:08d}" / RECORD_NAME).read_text("utf-8")
        return dict(json.loads(text))

    def latest(self) -> Path:
        """The newest checkpoint, which may be damaged. Raises ResumeError when there is none."""
        finished = self._finished()
        if not finished:
            raise ResumeError(f"{self.folder}: no checkpoint to resume from; {advice.WHICH_RUN}")
        return finished[-1]

    def exists(self) -> bool:
        return bool(self._finished())

    def _finished(self) -> list[Path]:
        return sorted(path.parent for path in self.folder.glob(f"step-*/{RECORD_NAME}"))


def _reason(error: BaseException) -> str:
    """The message of ``error`` in one line; for an OSError, its file name and reason."""
    if isinstance(error, OSError) and error.filename:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
