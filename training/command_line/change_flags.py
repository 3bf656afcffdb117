"""Flags that allow a resumed training run to change some settings."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Mapping, Sequence

from siamese_core.resume_check import ResumeError

_CHANGEABLE: Mapping[str, Sequence[str]] = {
    "--change-steps": ("steps",),
    # Not the kind of optimiser or of average, because checkpoints hold their state; nor the decoder's rate,
    # which decides which of these states exist.
    "--change-optimiser": (
        *("learning_rate", "hint_learning_rate", "rate_decay", "warmup", "weight_decay"),
        "mixed_precision",
    ),
}


def add_change_flags(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each group of settings that may change."""
    parser.add_argument("--change-steps", action="store_true", help="allow --resume with a different --steps")
    parser.add_argument(
        "--change-optimiser",
        action="store_true",
        help="allow --resume with a different rate (except the decoder's), decay, warm-up or precision, and "
        "record the change",
    )


def changeable(args: argparse.Namespace) -> tuple[str, ...]:
    """Names of the settings that may differ from the resumed run's."""
    return tuple(
        name
        for flag, names in _CHANGEABLE.items()
        if getattr(args, flag.removeprefix("--").replace("-", "_"))
        for name in names
    )


@contextlib.contextmanager
def flags_advised() -> Iterator[None]:
    """Within the block, a ResumeError names the flags that allow resuming, if flags cover all differences."""
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
