"""The folder of a training run: created or resumed, and locked while a process trains in it.

``run.json`` holds the run's id and record, ``checkpoints/`` and ``log.jsonl`` its checkpoints and losses. A
run that trains several networks in turn has ``checkpoints/<part>/`` and ``<part>.jsonl`` for each.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
from torch import Tensor

from .. import advice
from ..files import write_text_atomic
from ..resume_check import CHANGES_KEY, ResumeError, check_record, differences
from .checkpoints import CheckpointStore, TrainedState
from .engine import Engine, is_main
from .optimiser_step import Diverged
from .step_loop import LoopSettings, Report, run_steps

_RUN_FILE, _LOCK_FILE = "run.json", "run.lock"


@dataclass(frozen=True)
class TrainingRun:
    """One process's view of the run in ``folder``: a new run or, with ``resume``, the existing one.

    ``record`` holds everything that determines the result; resuming requires an equal record except for the
    keys in ``may_differ``. ``note`` receives messages for the user, in the main process.
    """

    folder: Path
    record: Mapping[str, Any]
    engine: Engine
    resume: bool = False
    may_differ: tuple[str, ...] = ()
    keep_checkpoints: int = 2
    note: Callable[[str], None] = print
    changes: list[dict[str, Any]] = field(default_factory=list)
    """Settings changed on resuming, set by :meth:`restored`: ``{"step": done, setting: [old, new], ...}``."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[str]:
        """Lock the folder for the block and yield the run's id ("" outside the main process).

        The folder of a new run should be empty or missing. Raises ResumeError when another process trains
        there, when there is nothing to resume, and when the folder belongs to a different run.
        """
        if not is_main(self.engine):
            yield ""
            return
        if not self.resume:
            self.folder.mkdir(parents=True, exist_ok=True)
        elif not (self.folder / _RUN_FILE).exists() and not self._saved():
            raise ResumeError(f"{self.folder}: no checkpoint to resume from; {advice.WHICH_RUN}")
        try:
            with filelock.FileLock(self.folder / _LOCK_FILE, blocking=False):
                yield self._reopened() if self.resume else self._begun()
        except filelock.Timeout as error:
            raise ResumeError(
                f"{self.folder}: another process is training there; wait for it to end, or "
                f"{advice.OTHER_OUTPUT}"
            ) from error

    def restored(self, state: TrainedState, steps: int, part: str = "") -> int:
        """Restore ``state`` from the latest checkpoint, if any, and return the number of steps done.

        That is 0 for a new run and for one stopped before its first checkpoint. Raises ResumeError when no
        checkpoint can be read, and when more than ``steps`` steps are done already.
        """
        store = self.checkpoints(part)
        if not (self.resume and store.exists()):
            return 0
        done = store.restore(state, self.may_differ, self._tell)
        if done > steps:
            raise ResumeError(f"{advice.STEPS} {steps} is too low: {done} steps are done already")
        found = store.record_of(done)
        self.changes[:] = found.get(CHANGES_KEY, [])
        if changed := differences(found, self.record):
            self.changes.append({"step": done, **{one.key: [one.old, one.new] for one in changed}})
            for one in changed:
                self._tell(f"from step {done} on, {one.key} is {one.new!r} in place of {one.old!r}")
        return done

    def train(
        self,
        step_function: Callable[[int], Mapping[str, Tensor]],
        settings: LoopSettings,
        state: TrainedState,
        first: int,
        *,
        part: str = "",
        label: str = "train",
        report: Report = lambda step, values: None,
        after_step: Callable[[int], None] = lambda done: None,
        stopped_by: type[BaseException] | tuple[type[BaseException], ...] = (),
    ) -> None:
        """:func:`run_steps` from step ``first``, with checkpoints and log in the run's folder.

        When training diverges, its last state is saved to ``diverged/``, apart from the checkpoints, and
        Diverged is raised.
        """
        try:
            run_steps(
                step_function,
                settings,
                engine=self.engine,
                state=state,
                checkpoints=self.checkpoints(part),
                log_path=self.folder / f"{part or 'log'}.jsonl",
                first=first,
                label=label,
                report=report,
                after_step=after_step,
                stopped_by=stopped_by,
            )
        except Diverged as error:
            failed = CheckpointStore(self.folder / "diverged", self.record)
            failed.save(state, error.step, self.engine)
            raise Diverged(error.step, f"{error}. The state it ended in is in {failed.folder}") from error

    def checkpoints(self, part: str = "") -> CheckpointStore:
        record = {**self.record, CHANGES_KEY: self.changes} if self.changes else self.record
        return CheckpointStore(self.folder / "checkpoints" / part, record, self.keep_checkpoints)

    def _begun(self) -> str:
        run_id = uuid.uuid4().hex
        text = json.dumps({"run_id": run_id, **self.record}, indent=1)
        write_text_atomic(self.folder / _RUN_FILE, text)
        return run_id

    def _reopened(self) -> str:
        path = self.folder / _RUN_FILE
        try:
            found = dict(json.loads(path.read_text("utf-8")))
            run_id = str(found.pop("run_id"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            if not self._saved():
                raise ResumeError(
                    f"{path} is damaged, and there is no checkpoint to resume from; {advice.NEW_RUN}"
                ) from error
            self.note(f"{path} is damaged or missing; it is written anew, with a new run id")
            return self._begun()
        if not self._saved():  # killed before its first checkpoint, so it starts over
            check_record(path, found, self.record, self.may_differ)
        return run_id

    def _saved(self) -> bool:
        return any((self.folder / "checkpoints").glob("**/step-*"))

    def _tell(self, text: str) -> None:
        if is_main(self.engine):
            self.note(text)
