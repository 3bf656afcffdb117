"""Settings that a resumed training run may change when its user asks for it."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Mapping, Sequence

from siamese_core.resume_check import ResumeError

_CHANGEABLE: Mapping[str, Sequence[str]] = {
    "--change-steps": ("steps",),
    # Not the kind of optimiser, nor whether an average is kept: a checkpoint holds the state of those.
    "--change-optimiser": (
        *("learning_rate", "hint_learning_rate", "rate_decay", "warmup", "weight_decay"),
        "mixed_precision",
    ),
}


def add_change_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each group of settings that may change."""
    parser.add_argument("--change-steps", action="store_true", help="allow --resume with another --steps")
    parser.add_argument(
        "--change-optimiser",
        action="store_true",
        help="allow --resume with another rate, decay, warm-up or precision, and record the change",
    )


def changeable(args: argparse.Namespace) -> tuple[str, ...]:
    """The settings that may differ from those of the run that is resumed."""
    return tuple(
        name
        for flag, names in _CHANGEABLE.items()
        if getattr(args, flag.removeprefix("--").replace("-", "_"))
        for name in names
    )


@contextlib.contextmanager
def flags_advised() -> Iterator[None]:
    """Say in a refusal to resume which flags allow it, where there are some for all that differs."""
    try:
        yield
    except ResumeError as error:
        needed = {
            flag for one in error.differences for flag, names in _CHANGEABLE.items() if one.key in names
        }
        allowed = {name for flag in needed for name in _CHANGEABLE[flag]}
        if not needed or any(one.key not in allowed for one in error.differences):
            raise
        flags = " and ".join(sorted(needed))
        raise ResumeError(f"{error}; {flags} allows that and records it") from error
