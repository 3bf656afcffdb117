"""Values as a workflow file or a command line may hold them: a setting is used, or refused by its name."""

from __future__ import annotations

import os
import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siamese_core.files import contained_path, natural_key, portable_stem
from siamese_core.masks.random_transforms import TransformSettings, expand_masks
from siamese_core.masks.resizing import resize_image, resize_mask
from tests.support.fuzzing import odd_value, refusal, rounds

NUMBERS = (0, 1, -1, 2, 50, 0.1, 0.5, 1.0, 10, 180, -0.0, 1e-9, 1e9, 10**400, float("nan"), float("inf"))
PARTS = (
    "..",
    ".",
    "",
    "a",
    "b.png",
    "link",
    "nul",
    "CON",
    "\0",
    "é",
    "\ud800",
    "x" * 300,
    "C:",
    "~",
    "$HOME",
    " ",
    "\n",
)


def transform_value(name: str, default: Any, noise: random.Random) -> Any:
    """Something for a setting: often of the right type, sometimes odd."""
    kind = noise.randrange(5)
    if kind == 0:
        return odd_value(noise)
    if isinstance(default, tuple):
        pair = (noise.choice(NUMBERS), noise.choice(NUMBERS))
        return pair if kind > 1 else (*pair, 1)
    if isinstance(default, str):
        return noise.choice(("none", "horizontal", "vertical", "both", "background", "mirrored", "all"))
    return noise.choice(NUMBERS)


def test_random_transforms_of_any_settings() -> None:
    rows, columns = np.indices((24, 40))
    mask = (rows - 10) ** 2 + (columns - 20) ** 2 < 40
    names = [field.name for field in fields(TransformSettings)]
    defaults = vars(TransformSettings())
    made, numbers = 0, rounds(1500)
    for number in numbers:
        noise = random.Random(number)
        chosen = noise.sample(names, noise.choice((1, 1, 2, 4)))
        values = {name: transform_value(name, defaults[name], noise) for name in chosen}
        values.setdefault("attempts", 5)

        def transform(values: dict[str, Any] = values, number: int = number) -> None:
            settings = TransformSettings(**values)
            few = TransformSettings(**{**vars(settings), "attempts": min(settings.attempts, 5)})
            (variant,) = expand_masks([mask], few, number)
            assert variant.mask.shape == mask.shape
            assert variant.mask.any()

        made += refusal(transform, *chosen, "attempts", "constraints") is None
    assert 0.07 < made / len(numbers) < 0.93


def test_no_path_leads_out_of_its_root(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "a").mkdir(parents=True)
    outside.mkdir()
    (root / "link").symlink_to(outside)
    (root / "a/link").symlink_to("../..")
    inside = 0
    for number in rounds(2000):
        noise = random.Random(number)
        joined = noise.choice(("/", "/", "//", "\\")).join(noise.choices(PARTS, k=noise.randint(1, 6)))
        text = noise.choice(("", "", "/", str(root) + "/", "//", "file://")) + joined

        def resolve(text: str = text) -> None:
            found = contained_path(root, text)
            assert found == root or root in found.parents
            assert os.path.realpath(found) == str(found)

        beginning = text[:100]  # all that a message shows of a long text
        inside += refusal(resolve, beginning, repr(text)) is None
    assert inside > 200


@pytest.mark.parametrize("number", range(20))
def test_stems_are_names_that_every_system_stores(tmp_path: Path, number: int) -> None:
    noise = random.Random(number)
    for _ in range(30):
        text = "".join(noise.choices((*PARTS, "/", "\\", ":", "*", "COM1", "."), k=noise.randint(0, 8)))
        stem = portable_stem(text)
        assert Path(stem).name == stem
        assert stem not in ("", ".", "..")
        natural_key(text)
        if "\ud800" not in text:
            (tmp_path / f"{stem}.png").write_bytes(b"")


def test_any_size_for_any_mode() -> None:
    image = np.zeros((9, 17, 3), np.uint8)
    for number in rounds(500):
        noise = random.Random(number)
        size = (noise.choice((1, 2, 8, 100, 1000)), noise.choice((1, 3, 8, 100, 1000)))
        mode = noise.choice(("stretch", "crop", "pad"))
        assert resize_image(image, size, mode).shape == (*size, 3)
        assert resize_mask(image[..., 0] > 0, size, mode).shape == size
