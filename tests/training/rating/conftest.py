"""A rating page of two sources, for the tests of both commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.support.rating import make_page, texture


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain folder of images in several formats and sizes, some with metadata."""
    folder = tmp_path_factory.mktemp("secret-synthetic")
    told = PngInfo()
    told.add_text("workflow", "made by a model")
    Image.fromarray(texture(0)).save(folder / "painted0.png", pnginfo=told)
    Image.fromarray(texture(1, 80, 120)).save(folder / "painted1.jpg")
    Image.fromarray(texture(2)[..., 0]).save(folder / "painted2.tif")
    Image.fromarray(texture(3)).save(folder / "painted3.bmp")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, pairs: Path, synthetic: Path) -> Path:
    path = tmp_path_factory.mktemp("page") / "new" / "rating.html"
    outcome = make_page(pairs, f"siamese={synthetic}", path)
    assert outcome.status == 0, outcome.errors
    return path
