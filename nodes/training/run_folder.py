"""The folder of a training, and the places of the model files it makes: nothing of others is replaced."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import filelock

from ...siamese_core.errors import UserError
from ...siamese_core.files import portable_stem, write_text_atomic
from ...siamese_core.resume_check import Difference, ResumeError, check_record
from ...siamese_core.weights.model_file import CheckpointError
from ...siamese_core.weights.tensor_files import read_metadata
from ..host.differences import told_change, told_changes, without_followers

IfExists = Literal["resume", "new", "refuse"]

_RUN_FILE, _LOCK_FILE, _REPLACED_FILE = "run.json", "run.lock", "replaced_runs.json"
_NAME = re.compile(r"[\w-][\w .-]*")

_NAMES = {
    "mask_threshold": "'threshold'",
    "mask_label": "'label'",
    "mixed_precision": "'precision'",
    "pairs": "the number of pairs",
}
"""What entries of a training's record are called that do not have the name of the node's input."""
_CHANGED = {
    "base": "other weights are connected as model, clip or vae",
    "parent": "another ControlNet, or none, is connected",
    "pairs_fingerprint": "the images or masks of the pairs were changed",
    "prompts_digest": "the prompts of the pairs were changed",
}
"""What is said of entries whose values tell nobody anything."""
_FOLLOWING = {
    "base": ("parent",),
    "pairs_fingerprint": ("pairs",),
    "prompts_digest": ("pairs", "prompt"),
}


class RunFolderError(UserError):
    """A training that cannot be begun or resumed under its name; the message says what to do."""


@dataclass(frozen=True)
class RunPlace:
    """Where a training goes: ``resume`` tells whether one of the same record is there.

    ``replaced``: the ids of trainings that this one has taken the place of, whose model files it may replace.
    """

    folder: Path
    resume: bool
    replaced: tuple[str, ...] = ()

    def check_file(self, path: Path, run_id: str = "") -> None:
        """Raise RunFolderError when the model file ``path`` is there and of another training."""
        own = {run_id, *self.replaced, *_ids_in(self.folder)} - {""}
        if path.exists() and _run_id_of(path) not in own:
            raise RunFolderError(
                f"'{path}' is there already and was not made by this training; give another name, or move "
                "that file away."
            )


def check_name(name: str) -> str:
    """``name`` without spaces around it. Raises RunFolderError unless it can be a file's on every system."""
    name = name.strip()
    if not _NAME.fullmatch(name) or portable_stem(name) != name:
        raise RunFolderError(
            f"The name '{name[:80]}' cannot be that of a file everywhere; use letters, digits, spaces, dots, "
            "- and _ alone."
        )
    return name


def find_place(folder: Path, record: Mapping[str, Any], if_exists: IfExists) -> RunPlace:
    """Decide about ``folder``, which stays as it is.

    Raises RunFolderError or ResumeError when something is there that is neither to be resumed nor replaced.
    """
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names <= {_LOCK_FILE, _REPLACED_FILE}:  # a training killed before it began leaves those
        return RunPlace(folder, resume=False)
    found = _read_run(folder)
    if if_exists == "refuse":
        raise RunFolderError(
            f"'{folder}' holds a training already; give another name, or set if_exists to resume or new."
        )
    if if_exists == "new":
        return RunPlace(folder, resume=False, replaced=_ids_in(folder))
    facts = {key: value for key, value in found.items() if key != "run_id"}
    try:
        check_record(folder, facts, record, what="training")
    except ResumeError as error:
        if not error.differences:
            raise
        raise RunFolderError(_other_settings(folder.name, error.differences)) from error
    return RunPlace(folder, resume=True)


def _other_settings(name: str, differences: Sequence[Difference]) -> str:
    parts = [
        _CHANGED.get(one.key) or told_change(_NAMES.get(one.key, f"'{one.key}'"), one)
        for one in without_followers(differences, _FOLLOWING)
    ]
    return (
        f"The training '{name}' was begun with other settings: {told_changes(parts)}. Put that back to "
        "resume it, give another name, or set if_exists to new to train anew."
    )


def clear(place: RunPlace) -> None:
    """Make room for a new training, if it is one; the trainings that it replaces are noted."""
    if place.resume:
        return
    if place.replaced:
        try:
            filelock.FileLock(place.folder / _LOCK_FILE, blocking=False).acquire().lock.release()
        except filelock.Timeout as error:
            raise RunFolderError(
                f"'{place.folder}' is being trained in by another ComfyUI; wait for it, or give another name."
            ) from error
        shutil.rmtree(place.folder)
    place.folder.mkdir(parents=True, exist_ok=True)
    if place.replaced:
        write_text_atomic(place.folder / _REPLACED_FILE, json.dumps(place.replaced))


def _read_run(folder: Path) -> dict[str, Any]:
    found = _read_json(folder / _RUN_FILE)
    if isinstance(found, dict) and isinstance(found.get("run_id"), str):
        return found
    raise RunFolderError(f"'{folder}' holds something that is no training; give another name.")


def _ids_in(folder: Path) -> tuple[str, ...]:
    """The id of the training in ``folder``, and of those that it replaced."""
    run, replaced = _read_json(folder / _RUN_FILE), _read_json(folder / _REPLACED_FILE)
    ids = [run.get("run_id")] if isinstance(run, dict) else []
    ids += replaced if isinstance(replaced, list) else []
    return tuple(found for found in ids if isinstance(found, str))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _run_id_of(path: Path) -> str | None:
    try:
        return read_metadata(path).get("siamese.run_id")
    except (CheckpointError, OSError):
        return None
