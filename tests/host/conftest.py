"""Tests inside a real ComfyUI, driven over its HTTP API as its page drives it: one host for all of them.

Its pack is a copy of this checkout.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .install import STAMP, python_of
from .support.server import Host, Installation

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
OWN = ROOT / ".host"
PACK = "siamese-diffusion"
"""The pack's folder in custom_nodes, as the registry would name it."""


@pytest.hookimpl(tryfirst=True)  # before ``-m`` selects by the mark
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of this folder.

    They come last, because the others take seconds; of several workers one begins with them, because they
    are the longest piece of work that is not divided.
    """
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.host)
    is_worker = hasattr(config, "workerinput")
    items.sort(key=lambda item: (HERE in item.path.parents) != is_worker)


@pytest.fixture(scope="session")
def installation() -> Installation:
    """A checkout of one's own when COMFYUI_PATH names it, else what ``make host`` made."""
    own = os.environ.get("COMFYUI_PATH")
    if own:
        if not (Path(own) / "main.py").is_file():
            pytest.fail(f"COMFYUI_PATH is {own}, where there is no main.py.")
        python = os.environ.get("COMFYUI_PYTHON") or sys.executable
        return Installation(Path(own), Path(shutil.which(python) or python))
    if not (OWN / STAMP).is_file():
        pytest.skip("no ComfyUI to test in: run 'make host', or set COMFYUI_PATH (and COMFYUI_PYTHON)")
    return Installation(OWN / "ComfyUI", python_of(OWN / "venv"))


@pytest.fixture(scope="session")
def host(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with Host(installation, tmp_path_factory.mktemp("comfyui"), {PACK: ROOT}) as running:
        yield running
