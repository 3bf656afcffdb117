"""Whether a half-finished run can be resumed: its record against the present settings, and the refusal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import UserError

READ_DIFFERENTLY = "read_differently"
"""Key of a record: files that the first versions read otherwise than masks/foreground.py; or absent."""
CHANGES_KEY = "changes"
"""Of a record: what was changed when the run was resumed, and after which step. It identifies nothing."""


@dataclass(frozen=True)
class Difference:
    """An entry in which the record of a run and that of the present one differ; None where there is none."""

    key: str
    old: Any
    new: Any


class ResumeError(UserError):
    """A run that cannot be resumed as asked; the message says why and what to do.

    ``differences`` are those of the records, if it is about them: whoever knows the entries by other names
    can say it in those.
    """

    def __init__(self, message: str, differences: Sequence[Difference] = ()) -> None:
        super().__init__(message)
        self.differences = tuple(differences)


def check_record(
    path: Path | str,
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    may_differ: tuple[str, ...] = (),
    what: str = "checkpoint",
) -> None:
    """Raise ResumeError naming every key in which the record of a ``what`` differs from the present run's.

    A record from before files were read as they are now is told apart (:data:`READ_DIFFERENTLY`).
    """
    if READ_DIFFERENTLY in wanted and READ_DIFFERENTLY not in found:
        raise ResumeError(
            f"{path}: the {what} was begun when some of its files were read otherwise than now, so that the "
            f"rest would not fit ({'; '.join(wanted[READ_DIFFERENTLY])}); begin it anew in another folder"
        )
    differing = differences(found, wanted, may_differ)
    if differing:
        shown = "; ".join(f"{one.key} was {one.old!r} and is now {one.new!r}" for one in differing)
        raise ResumeError(f"{path}: the {what} belongs to another run: {shown}", differing)


def differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], may_differ: tuple[str, ...] = ()
) -> list[Difference]:
    """The entries that differ, by key; of two mappings their own entries, as ``key.entry``."""
    wanted = json.loads(json.dumps(wanted))  # tuples become lists, as in the file
    differing: list[Difference] = []
    for key in sorted((set(found) | set(wanted)) - {"step", CHANGES_KEY, *may_differ}):
        old, new = found.get(key), wanted.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            differing += [replace(one, key=f"{key}.{one.key}") for one in differences(old, new)]
        elif old != new:
            differing.append(Difference(key, old, new))
    return differing
