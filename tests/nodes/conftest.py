"""The pack as ComfyUI loads it, under a name of its own, for what needs no host."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def part() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a module of the pack by its dotted name; it must be one that stands on the core alone."""
    spec = importlib.util.spec_from_file_location(
        "pack_of_any_name", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    yield lambda name: importlib.import_module(f"{spec.name}.{name}")
    for name in [name for name in sys.modules if name.startswith(spec.name)]:
        del sys.modules[name]
