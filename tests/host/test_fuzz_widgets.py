"""Workflows from strangers: any value in any widget ends in a result or a sentence, and in no stray file."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.fuzzing import odd_value, rounds

from .support import graphs
from .support.datasets import dataset
from .support.server import Host, HostError

COUNT = 120
PATHS = (
    *("../outside", "/etc", "/etc/passwd", "..", ".", "", "a/../../b", "\\\\host\\share", "C:\\x", "a\0b"),
    *("~", "$HOME", "file:///etc", "memory://x", "x" * 5000, "nul", "..%2f..", "link/../..", "\ud83d"),
)
DRAWN = ("folder", "masks")  # widgets that name a place


def tree(folder: Path) -> set[str]:
    """Names of all files of the host but those in its output and temporary folders, and its own records."""
    own = ("output", "temp", "user", "custom_nodes")
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in own and path.suffix != ".log"
    }


def mutated(number: int) -> graphs.Graph:
    """A sound graph in which one to three widgets have values that nobody should give them."""
    noise = random.Random(number)
    masks = {"4": graphs.masks(count=2), "5": graphs.transform(("4", 0), variants=1)}
    if number % 3:
        graph = {**masks, "8": graphs.node("MaskToImage", mask=("5", 0))}
        graph["9"] = graphs.saved_pairs(("8", 0), ("5", 0), f"fuzz_{number}")
        targets = [graph["4"], graph["5"], graph["9"]]
    else:
        graph = {**graphs.model(), **masks, "7": dataset(f"fuzz_{number}", steps=1, transform=("5", 2))}
        targets = [graph["7"]]
    for _ in range(noise.choice((1, 1, 2, 3))):
        inputs = noise.choice(targets)["inputs"]
        name = noise.choice([key for key, value in inputs.items() if not isinstance(value, list)])
        value = noise.choice(PATHS) if name in DRAWN and noise.random() < 0.8 else odd_value(noise)
        # Lists are links to the host, which judges them by itself; these two only mean more work.
        if not isinstance(value, list | dict) and name not in ("variants", "total"):
            inputs[name] = value
    return graph


@pytest.mark.slow
def test_no_value_of_a_widget_does_harm(host: Host) -> None:
    before, beside = tree(host.folder), set(host.folder.parent.iterdir())
    for number in rounds(COUNT):
        try:
            host.run(mutated(number), timeout=120)
        except HostError as error:
            if error.failure:  # by a node; otherwise the host itself has refused the value
                kind = str(error.failure["exception_type"])
                assert "siamese" in kind.lower(), (number, kind, str(error)[:500])
    assert tree(host.folder) == before
    assert set(host.folder.parent.iterdir()) == beside
    host.run({"4": graphs.masks(count=1), **graphs.preview(("4", 0))})
