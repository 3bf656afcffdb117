"""Who may import whom: ``siamese_core`` stands alone, ``training`` stands on it."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

import siamese_core

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "siamese_core").rglob("*.py"))
TRAINING = sorted((ROOT / "training").rglob("*.py"))

# Modules for training alone, as the package's docstring lists them: ComfyUI does not ship what they stand on.
TRAINING_ONLY = set(re.findall(r"``(\w+)``", siamese_core.__doc__ or ""))
FILES = {".".join(path.relative_to(ROOT / "siamese_core").with_suffix("").parts): path for path in CORE}
FOR_COMFYUI = sorted(FILES.keys() - TRAINING_ONLY)
SHIPPED_BY_COMFYUI = {"torch", "numpy", "PIL", "safetensors", "einops", "fsspec", "filelock"}
ROOMS = {"nodes", "siamese_core", "training", "tests", "benchmarks"}
HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "execution", "server"}


@cache
def imports(path: Path) -> frozenset[tuple[int, str]]:
    """Level (dots) and module of every import in ``path``, inside functions too."""
    found: set[tuple[int, str]] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(0, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is None:  # from . import x
            found |= {(node.level, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.level, str(node.module)))
    return frozenset(found)


def packages(path: Path) -> set[str]:
    """Top-level packages that ``path`` imports absolutely, the standard library's left out."""
    names = {module.split(".")[0] for level, module in imports(path) if level == 0}
    return names - set(sys.stdlib_module_names)


def neighbours(module: str) -> set[str]:
    """Modules of the core that ``module`` imports; of a package the one that its folder's ``__init__`` is."""
    found = set()
    for level, name in imports(FILES[module]):
        if level:
            parts = [*module.split(".")[:-level], *name.split(".")]
            found.add(
                next(known for known in (".".join(parts), ".".join([*parts, "__init__"])) if known in FILES)
            )
    return found


def with_all_they_import(modules: set[str]) -> set[str]:
    reached: set[str] = set()
    waiting = set(modules)
    while waiting:
        module = waiting.pop()
        reached.add(module)
        waiting |= neighbours(module) - reached
    return reached


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_knows_no_other_room_and_imports_itself_relatively(path: Path) -> None:
    assert not packages(path) & (ROOMS | HOST)
    depth = len(path.relative_to(ROOT / "siamese_core").parts)
    assert all(level <= depth for level, _ in imports(path))


@pytest.mark.parametrize("path", TRAINING, ids=name_of)
def test_training_stands_on_the_core_alone(path: Path) -> None:
    assert not packages(path) & ((ROOMS | HOST) - {"siamese_core"})
    depth = len(path.relative_to(ROOT / "training").parts)
    assert all(level <= depth for level, _ in imports(path))


@pytest.mark.parametrize("module", FOR_COMFYUI)
def test_modules_for_comfyui_need_only_what_it_ships(module: str) -> None:
    reached = with_all_they_import({module})

    assert not reached & TRAINING_ONLY
    for name in reached:
        assert packages(FILES[name]) <= SHIPPED_BY_COMFYUI, name


def test_every_module_for_training_alone_needs_to_be_one() -> None:
    assert TRAINING_ONLY
    for module in TRAINING_ONLY:
        needed = with_all_they_import({module})
        third_party = set().union(*(packages(FILES[name]) for name in needed))
        assert third_party & {"diffusers", "transformers", "accelerate"}, module


@pytest.mark.parametrize("path", [*CORE, *TRAINING], ids=name_of)
def test_no_module_outgrows_400_lines(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 400
