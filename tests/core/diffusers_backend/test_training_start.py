"""What the record of a training run says about the base that it starts from."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamese_core.diffusers_backend.base_model import base_file
from siamese_core.diffusers_backend.diffusers_export import write_folder
from siamese_core.diffusers_backend.training_start import read_start
from tests.support.small_models import small_base


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "folder"
    write_folder(path, base_file(small_base(), {}, "run"))
    return path


@pytest.mark.parametrize(
    ("part", "key"), [("unet", "base"), ("vae", "base_parts"), ("text_encoder", "base_parts")]
)
def test_other_weights_in_a_diffusers_folder_are_another_base(folder: Path, part: str, key: str) -> None:
    before = read_start(folder, None, "dense").record
    (file,) = (folder / part).glob("*.safetensors")
    content = file.read_bytes()
    try:
        file.write_bytes(content[:-4] + b"\0\0\0\0")
        after = read_start(folder, None, "dense").record
    finally:
        file.write_bytes(content)
    assert {name for name in before if before[name] != after[name]} == {key}
    assert read_start(folder, None, "dense").record == before
