"""Small sets for the segment command, and running it on them in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.commands import Outcome, run_here
from tests.support.phantoms.phantom import write_phantoms
from training import segment

SIDE = 64


def write_sets(root: Path) -> Path:
    """Six real pairs, twelve synthetic ones, and two test sets of other sizes."""
    write_phantoms(root / "real", 6, size=SIDE)
    write_phantoms(root / "synthetic", 12, size=SIDE, first=100)
    write_phantoms(root / "near", 5, size=SIDE, first=200)
    write_phantoms(root / "far", 2, size=96, first=300)
    return root


def compare(data: Path, output: Path, *more: object) -> Outcome:
    """Run the command on the four sets in two steps; later flags win, but networks and sets add up."""
    sets = ("--real", data / "real", "--synthetic", data / "synthetic", "--test", data / "near", data / "far")
    return run_here(segment.main, *sets, *short(output, *more))


def short(output: Path, *more: object) -> tuple[object, ...]:
    """Settings of seconds, then ``more``; of a small U-Net unless ``more`` names networks."""
    network = () if "--network" in more else ("--network", "small-unet")
    numbers = ("--steps", 2, "--batch-size", 2, "--resolution", SIDE, "--seeds", 2, "--threads", 1)
    return (*network, "--output", output, *numbers, *more)


def compared(data: Path, output: Path, *more: object) -> dict[str, Any]:
    outcome = compare(data, output, *more)
    assert outcome.status == 0, outcome.errors
    return read_results(output)


def read_results(output: Path) -> dict[str, Any]:
    return dict(json.loads((output / "results.json").read_text("utf-8")))
