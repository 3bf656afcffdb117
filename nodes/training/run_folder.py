"""The folder and model files of a training run, with checks that files of other runs are not replaced."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import filelock

from ...siamese_core.errors import UserError
from ...siamese_core.files import portable_stem, write_text_atomic
from ...siamese_core.learning.recipes import Recipe
from ...siamese_core.resume_check import Difference, NoWholeCheckpoint, ResumeError, check_record
from ...siamese_core.weights.model_file import CheckpointError
from ...siamese_core.weights.tensor_files import read_metadata
from ..host.differences import told_change, told_changes, without_followers

T = TypeVar("T")
IfExists = Literal["resume", "new", "refuse"]

_RUN_FILE, _LOCK_FILE, _REPLACED_FILE = "run.json", "run.lock", "replaced_runs.json"
_NAME = re.compile(r"[\w-][\w .-]*")

_NAMES = {
    "mask_threshold": "'threshold'",
    "mask_label": "'label'",
    "mixed_precision": "'precision'",
    "pairs": "the number of pairs",
    "rate_decay": "'recipe'",
}
"""Names for entries of a run's record that are not called like the node's input."""
_RECIPES: Mapping[Any, Recipe] = {"none": "paper", "cosine": "small base"}
"""The recipe that an entry ``rate_decay`` tells of; the recipe itself is no entry."""
_CHANGED = {
    "base": "other weights are connected as model, clip or vae",
    "parent": "another ControlNet, or none, is connected",
    "pairs_fingerprint": "the images or masks of the pairs were changed",
    "prompts_digest": "the prompts of the pairs were changed",
}
"""Phrases for changed entries whose values (digests) mean nothing to the user."""
_FOLLOWING = {
    "base": ("parent",),
    "pairs_fingerprint": ("pairs",),
    "prompts_digest": ("pairs", "prompt"),
    "hint_learning_rate": ("learning_rate", "rate_decay"),
    **dict.fromkeys(("snr_exponent", "draws_per_pair", "timestep_sampling", "warmup"), ("rate_decay",)),
}


class RunFolderError(UserError):
    """A training run cannot be started or resumed under its name; the message says what to do."""


@dataclass(frozen=True)
class RunPlace:
    """The folder of a training run; ``resume``: it holds a run with the same record.

    ``replaced``: the ids of runs that this one replaces and whose model files it may overwrite.
    ``may_replace``: a run to resume may be put aside if none of its checkpoints can be read.
    """

    folder: Path
    resume: bool
    replaced: tuple[str, ...] = ()
    may_replace: bool = False

    def check_file(self, path: Path, run_id: str = "") -> None:
        """Raise RunFolderError when the model file ``path`` exists and belongs to another training run."""
        own = {run_id, *self.replaced, *_ids_in(self.folder)} - {""}
        if path.exists() and _run_id_of(path) not in own:
            raise RunFolderError(
                f"'{path}' is there already and was not made by this training; give another name, or move "
                "that file away."
            )


def check_name(name: str) -> str:
    """``name``, stripped. Raises RunFolderError unless it is a valid file name on every system."""
    name = name.strip()
    if not _NAME.fullmatch(name) or portable_stem(name) != name:
        raise RunFolderError(
            f"The name '{name[:80]}' cannot be that of a file everywhere; use letters, digits, spaces, dots, "
            "- and _ alone."
        )
    return name


def find_place(folder: Path, record: Mapping[str, Any], if_exists: IfExists) -> RunPlace:
    """Decide, without changing ``folder``, whether to start, resume or replace a run there.

    With "new", a run of the same ``record`` is resumed, too: training it again would give the same model, and
    a graph that was stopped is queued again as it is.

    Raises RunFolderError or ResumeError when ``folder`` holds something that may be neither resumed nor
    replaced.
    """
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names <= {_LOCK_FILE, _REPLACED_FILE}:  # left by a run that was killed before it began
        return RunPlace(folder, resume=False)
    found = _read_run(folder)
    if if_exists == "refuse":
        raise RunFolderError(
            f"'{folder}' holds a training already; give another name, or set if_exists to resume or new."
        )
    facts = {key: value for key, value in found.items() if key != "run_id"}
    try:
        check_record(folder, facts, record, what="training")
    except ResumeError as error:
        if if_exists == "new":
            return RunPlace(folder, resume=False, replaced=_ids_in(folder))
        if not error.differences:
            raise
        raise RunFolderError(_other_settings(folder.name, error.differences)) from error
    return RunPlace(folder, resume=True, may_replace=if_exists == "new")


def _in_widget_values(one: Difference) -> Difference:
    if one.key != "rate_decay":
        return one
    return replace(one, old=_RECIPES.get(one.old, one.old), new=_RECIPES.get(one.new, one.new))


def _other_settings(name: str, differences: Sequence[Difference]) -> str:
    parts = [
        _CHANGED.get(one.key) or told_change(_NAMES.get(one.key, f"'{one.key}'"), _in_widget_values(one))
        for one in without_followers(differences, _FOLLOWING)
    ]
    return (
        f"The training '{name}' was begun with other settings: {told_changes(parts)}. Put that back to "
        "resume it, give another name, or set if_exists to new to train anew."
    )


def clear(place: RunPlace) -> None:
    """Unless resuming, empty the folder for a new run and record the ids of the runs it replaces.

    Raises RunFolderError when another process is training there.
    """
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


def resumed_or_anew(place: RunPlace, train: Callable[[RunPlace], T]) -> T:
    """The result of ``train`` in ``place``; from the start if it may be, where no checkpoint can be read."""
    try:
        return train(place)
    except NoWholeCheckpoint as error:
        if not place.may_replace:
            raise
        told = str(error)
    # Outside of the handler, whose traceback would keep the networks in memory.
    anew = put_aside(place)
    logging.warning("Siamese-Diffusion: %s. With if_exists new, it is put aside and begun anew", told)
    return train(anew)


def put_aside(place: RunPlace) -> RunPlace:
    """Rename the folder of a run that cannot be resumed; the place of a new run that replaces it."""
    ids, number = _ids_in(place.folder), 1
    while (aside := place.folder.with_name(f"{place.folder.name}.unreadable-{number}")).exists():
        number += 1
    place.folder.rename(aside)
    place.folder.mkdir()
    return RunPlace(place.folder, resume=False, replaced=ids)


def _read_run(folder: Path) -> dict[str, Any]:
    found = _read_json(folder / _RUN_FILE)
    if isinstance(found, dict) and isinstance(found.get("run_id"), str):
        return found
    raise RunFolderError(f"'{folder}' holds something that is no training; give another name.")


def _ids_in(folder: Path) -> tuple[str, ...]:
    """The id of the run in ``folder`` and those of the runs it replaced."""
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
