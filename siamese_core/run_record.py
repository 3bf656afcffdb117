"""The record of a run: what has to be equal for a half-finished one to be gone on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import UserError


class ResumeError(UserError):
    """A run that cannot be resumed as asked; the message says why and what to do."""


def check_record(
    path: Path | str,
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    may_differ: tuple[str, ...] = (),
    what: str = "checkpoint",
) -> None:
    """Raise ResumeError naming every key in which the record of a ``what`` differs from the present run's."""
    wanted = json.loads(json.dumps(wanted))  # tuples become lists, as in the file
    keys = sorted((set(found) | set(wanted)) - {"step", *may_differ})
    differing = [
        f"{key} was {found.get(key)!r} and is now {wanted.get(key)!r}"
        for key in keys
        if found.get(key) != wanted.get(key)
    ]
    if differing:
        raise ResumeError(f"{path}: the {what} belongs to another run: {'; '.join(differing)}")
