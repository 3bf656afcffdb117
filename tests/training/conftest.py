"""Short runs of training.train, for the tests of what it does and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import Outcome, run_here
from tests.support.learning.train_runs import Train, flags
from training import train as train_command


@pytest.fixture(scope="module")
def train(pairs: Path, single_base: Path) -> Train:
    """Run the command on the shared pairs and base; later flags win over the usual ones."""

    def run_command(output: Path, *more: object) -> Outcome:
        return run_here(train_command.main, *flags(pairs, single_base, output, *more))

    return run_command
