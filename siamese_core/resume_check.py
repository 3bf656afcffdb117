"""Comparing the record of an unfinished run with the current settings, to decide whether to resume it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import UserError

READ_DIFFERENTLY = "read_differently"
"""Key of a record: phrases on files that the first versions read differently; absent if there are none."""
CHANGES_KEY = "changes"
"""Key of a record: settings changed on resuming, and after which step. Ignored in comparisons."""

BASE_PARTS_KEY = "base_parts"
"""Key of a record: digest of a diffusers folder's weight files other than the UNet's first."""
IMAGE_PROMPTS_KEY, INIT_WEIGHTS_KEY = "image_prompts", "init_weights"
"""Keys of a base's record: digests of its images' prompts, and of a diffusers folder that it began from."""
BASE_DIGESTS_KEY, PAIR_PROMPTS_KEY, TEST_ORDER_KEY = "base_digests", "pair_prompts", "test_order"
"""Keys of an ablation's record: digests of its base and of its pairs' prompts, and its test sets in order."""
PAIR_ORDER_KEY = "pair_order"
"""Key of a segmentation run's record: a digest of the pairs that it trains on, in their order."""
_ADDED_LATER = {
    *(BASE_PARTS_KEY, IMAGE_PROMPTS_KEY, INIT_WEIGHTS_KEY, PAIR_ORDER_KEY),
    *(BASE_DIGESTS_KEY, PAIR_PROMPTS_KEY, TEST_ORDER_KEY),
}
"""Keys that earlier versions did not write. Not compared with a record without them."""


@dataclass(frozen=True)
class Difference:
    """An entry that differs between a stored (``old``) and the current record (``new``); None if missing."""

    key: str
    old: Any
    new: Any


class ResumeError(UserError):
    """A run cannot be resumed as asked; the message says why and what to do.

    ``differences`` of the records, if these are the reason, let callers describe them in their own terms.
    """

    def __init__(self, message: str, differences: Sequence[Difference] = ()) -> None:
        super().__init__(message)
        self.differences = tuple(differences)


class NoWholeCheckpoint(ResumeError):
    """All checkpoints of a run are damaged; the message says how."""


def check_record(
    path: Path | str,
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    may_differ: tuple[str, ...] = (),
    what: str = "checkpoint",
) -> None:
    """Raise ResumeError, naming every differing key, unless the stored record matches the ``wanted`` one.

    Records by versions that read some of the files differently (:data:`READ_DIFFERENTLY`) are refused with a
    message of their own. ``what`` is the word for the run in messages.
    """
    if READ_DIFFERENTLY in wanted and READ_DIFFERENTLY not in found:
        raise ResumeError(
            f"{path}: the {what} was begun when some of its files were read otherwise than now, so that the "
            f"rest would not fit ({'; '.join(wanted[READ_DIFFERENTLY])}); begin it anew in another folder"
        )
    differing = differences(found, wanted, may_differ)
    if differing:
        shown = "; ".join(f"{one.key} was {_told(one.old)} and is now {_told(one.new)}" for one in differing)
        raise ResumeError(f"{path}: the {what} belongs to another run: {shown}", differing)


def differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], may_differ: tuple[str, ...] = ()
) -> list[Difference]:
    """The entries that differ, sorted by key; entries of nested mappings are named ``key.entry``."""
    wanted = json.loads(json.dumps(wanted))  # tuples become lists, as in the file
    differing: list[Difference] = []
    unknown = _ADDED_LATER - set(found)
    for key in sorted((set(found) | set(wanted)) - {"step", CHANGES_KEY, *may_differ, *unknown}):
        old, new = found.get(key), wanted.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            differing += [replace(one, key=f"{key}.{one.key}") for one in differences(old, new)]
        elif old != new:
            differing.append(Difference(key, old, new))
    return differing


def _told(value: Any) -> str:
    """A record leaves out settings that were added later as long as they have their defaults."""
    return "not set" if value is None else repr(value)
