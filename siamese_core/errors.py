"""Errors that the user can fix."""

from __future__ import annotations


class UserError(ValueError):
    """An input, file or setting cannot be used; the message says which one, why, and what to do.

    Commands print only the message; any other exception is a defect and keeps its traceback.
    """


class CheckpointError(UserError):
    """A model file cannot be read or written; the message names the file and the fix."""


def counted(count: int, noun: str) -> str:
    """``count`` and ``noun`` for messages: ``1 mask``, ``2 masks``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
