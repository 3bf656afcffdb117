"""Short runs of training.train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.many_pairs import SIDE
from tests.support.commands import Outcome

STEPS = 6
Train = Callable[..., Outcome]


def flags(pairs: Path, base: Path, output: Path, *more: object) -> list[object]:
    """A run of a few steps with a checkpoint every second one and no sample pictures."""
    return [
        *("--pairs", pairs, "--base", base, "--output", output, "--resolution", SIDE, "--threads", 1),
        *("--steps", STEPS, "--batch-size", 2, "--save-every", 2, "--log-every", 4, "--sample-every", 0),
        *("--export-precision", "fp32", *more),
    ]
