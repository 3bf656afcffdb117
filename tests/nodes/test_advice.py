"""What the core advises names flags, and in a graph widgets: every piece of advice has both."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from siamese_core import advice

ROOT = Path(__file__).parents[2]
FLAG = re.compile(r"--[a-z]")
PIECES = [value for name, value in vars(advice).items() if name.isupper()]
CORE = sorted(
    path
    for path in (ROOT / "siamese_core").rglob("*.py")
    if "diffusers_backend" not in path.parts and path.name != "advice.py"
)


@pytest.fixture(scope="module")
def graph(part: Callable[[str], ModuleType]) -> ModuleType:
    return part("nodes.host.advice")


def texts(path: Path) -> Iterator[str]:
    """The texts in a file's code; docstrings are left out."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_other_text_of_the_core_names_a_flag(path: Path) -> None:
    assert [text for text in texts(path) if FLAG.search(text)] == []


@pytest.mark.parametrize("piece", PIECES)
def test_a_graph_has_its_own_words_for_it(graph: ModuleType, piece: str) -> None:
    told = graph.in_graph_words(f"The mask 'a.png' is odd; {piece}")
    assert told == f"The mask 'a.png' is odd; {graph.IN_GRAPH[piece]}"
    assert not FLAG.search(told)
    assert "training." not in told


def test_no_piece_is_replaced_within_another_one(graph: ModuleType) -> None:
    assert sorted(graph.IN_GRAPH) == sorted(PIECES)
    for first, second in itertools.combinations(graph.IN_GRAPH, 2):
        assert first not in second
