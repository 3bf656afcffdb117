"""Who may import whom, and how large files and folders may grow."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from training.command_line.options import read_toml

ROOT = Path(__file__).parents[1]
CORE, TRAINING, NODES, TESTS = (
    sorted((ROOT / name).rglob("*.py")) for name in ("siamese_core", "training", "nodes", "tests")
)
FOLDERS = sorted({path.parent for path in (*CORE, *TRAINING, *NODES, *TESTS)})

SHIPPED_BY_COMFYUI = {"torch", "numpy", "PIL", "safetensors", "einops", "fsspec", "filelock", "tqdm"}
OPTIONAL = {"bitsandbytes"}  # imported when a setting asks for it, and refused by name when it is missing
PACKAGES = {"nodes", "siamese_core", "training", "tests", "benchmarks"}
HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "execution", "server"}
MOST_LINES, MOST_FILES = 400, 15


@cache
def imports(path: Path) -> frozenset[tuple[int, str]]:
    """Level (dots) and dotted name of all that ``path`` imports, inside functions too."""
    found: set[tuple[int, str]] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(0, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.level, f"{node.module or ''}.{alias.name}".strip(".")) for alias in node.names}
    return frozenset(found)


def packages(path: Path) -> set[str]:
    """Top-level packages that ``path`` imports absolutely, the standard library's left out."""
    names = {name.split(".")[0] for level, name in imports(path) if level == 0}
    return names - set(sys.stdlib_module_names)


def neighbours(path: Path) -> Iterator[Path]:
    """Files of the repository that ``path`` imports relatively."""
    for level, name in imports(path):
        if level:
            *folders, last = (path.parents[level - 1].joinpath(*name.split(".")).relative_to(ROOT)).parts
            whole = ROOT.joinpath(*folders, last)
            candidates = (whole.with_suffix(".py"), whole / "__init__.py", whole.parent.with_suffix(".py"))
            found = next((file for file in candidates if file.is_file()), whole.parent / "__init__.py")
            assert found.is_file(), (path, name)
            yield found


def with_all_they_import(path: Path) -> set[Path]:
    reached, waiting = set(), {path}
    while waiting:
        file = waiting.pop()
        reached.add(file)
        waiting |= set(neighbours(file)) - reached
    return reached


def room(path: Path) -> str:
    """The room of a file of the core, of training or of nodes; "" for what stands at the top of them."""
    parts = path.relative_to(ROOT).parts
    return parts[1] if len(parts) > 2 else ""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_knows_no_other_package_and_imports_itself_relatively(path: Path) -> None:
    assert not packages(path) & (PACKAGES | HOST)
    depth = len(path.relative_to(ROOT / "siamese_core").parts)
    assert all(level <= depth for level, _ in imports(path))


@pytest.mark.parametrize("path", TRAINING, ids=name_of)
def test_training_stands_on_the_core_alone(path: Path) -> None:
    assert not packages(path) & ((PACKAGES | HOST) - {"siamese_core"})
    depth = len(path.relative_to(ROOT / "training").parts)
    assert all(level <= depth for level, _ in imports(path))


@pytest.mark.parametrize("path", [path for path in CORE if room(path) != "diffusers_backend"], ids=name_of)
def test_outside_the_diffusers_backend_the_core_loads_in_comfyui(path: Path) -> None:
    for file in with_all_they_import(path):
        assert packages(file) <= SHIPPED_BY_COMFYUI | OPTIONAL, name_of(file)


@pytest.mark.parametrize("paths", [CORE, TRAINING, NODES], ids=["siamese_core", "training", "nodes"])
def test_rooms_import_each_other_in_one_direction(paths: list[Path]) -> None:
    """The top counts as a room: below all others in the core, above them elsewhere."""
    arrows: dict[str, set[str]] = {}
    for path in paths:
        for file in neighbours(path):
            if file in paths and room(file) != room(path) and file.name != "__init__.py":
                arrows.setdefault(room(path), set()).add(room(file))
    assert arrows
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(f"rooms in a circle: {' -> '.join(name or 'top' for name in error.args[1])}")


@pytest.mark.parametrize("path", [*CORE, *TRAINING, *NODES, *TESTS], ids=name_of)
def test_no_module_outgrows_400_lines(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_no_folder_outgrows_15_files(folder: Path) -> None:
    files = [path for path in folder.iterdir() if path.is_file() and path.name != "__init__.py"]
    assert len(files) <= MOST_FILES


def test_no_test_file_imports_another() -> None:
    found = {path: [name for _, name in imports(path) if ".test_" in f".{name}"] for path in TESTS}
    assert not {name_of(path): names for path, names in found.items() if names}


def test_every_package_is_installed() -> None:
    listed = read_toml(ROOT / "pyproject.toml")["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (*CORE, *TRAINING)}
    assert sorted(listed) == sorted({*found, "siamese_core.assets"})
