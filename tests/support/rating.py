"""Pages of a rating study, made by the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.commands import Outcome, run_here
from training import rate

COUNT = 3


def texture(seed: int, height: int = 96, width: int = 96) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_page(real: Path, synthetic: object, output: Path, *more: object) -> Outcome:
    """Run the page command; later flags win."""
    usual = ("--real", real, "--synthetic", synthetic, "--output", output, "--count", COUNT)
    return run_here(rate.main, "page", *usual, *more)


def key_of(page: Path) -> dict[str, Any]:
    key: dict[str, Any] = json.loads(page.with_name(page.name + ".key.json").read_text("utf-8"))
    return key
