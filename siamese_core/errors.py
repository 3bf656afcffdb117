"""Errors that a person using the software can mend."""

from __future__ import annotations


class UserError(ValueError):
    """Input, a file or a setting that cannot be used; the message says which one, why, and what to do.

    Commands print the message as one line; anything else that is raised is a defect and keeps its traceback.
    """


class CheckpointError(UserError):
    """A model file that cannot be read or written as one; the message names the file and the fix."""


def counted(count: int, noun: str) -> str:
    """``count`` of ``noun`` as messages say it: ``1 mask``, ``2 masks``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
