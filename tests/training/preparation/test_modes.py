"""Kinds of images, told by file names or by colours."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.preparation.modes import ModeError, colour_name, modes_by_colour, modes_by_name

DARK, VIOLET, PALE = (20, 20, 20), (150, 80, 160), (235, 230, 228)


def images(*colours: tuple[int, int, int]) -> list[NDArray[np.uint8]]:
    """An image of each colour, with some noise and each of another size."""
    random = np.random.default_rng(1)
    return [
        np.clip(np.array(colour) + random.integers(-12, 13, (40 + k, 50, 3)), 0, 255).astype(np.uint8)
        for k, colour in enumerate(colours)
    ]


def test_a_name_without_its_number_is_the_mode() -> None:
    stems = ["violet_1", "violet_12", "dark field-03", "dark field-4", "pale7", "pale8"]
    assert modes_by_name(stems) == ["violet", "violet", "dark field", "dark field", "pale", "pale"]


def test_the_split_that_every_name_begins_with_is_no_part_of_the_mode() -> None:
    names = ["violet_1", "violet_2", "pale_3", "pale_4"]
    stems = [f"{split}_{name}" for split, name in zip(("train", "train", "test", "val"), names, strict=True)]
    assert modes_by_name(stems) == ["violet", "violet", "pale", "pale"]
    assert modes_by_name([*names[:2], "test_1", "test_2"]) == ["violet", "violet", "test", "test"]


@pytest.mark.parametrize(
    "stems", [["a_1", "a_2"], ["a", "b", "c"], ["12", "a_1"], ["train_1", "train_2", "test_1", "test_2"]]
)
def test_names_that_tell_no_modes_are_refused(stems: list[str]) -> None:
    with pytest.raises(ModeError, match="--modes colour"):
        modes_by_name(stems)


def test_rare_colours_are_a_kind_of_their_own() -> None:
    shown = images(*12 * [DARK], VIOLET, PALE, VIOLET)
    modes = modes_by_colour(shown, 3, seed=4)
    assert modes == [*12 * ["dark grey"], "violet", "bright grey", "violet"]


def test_kinds_of_one_name_are_numbered() -> None:
    modes = modes_by_colour(images((20, 20, 20), (60, 60, 60), (21, 20, 20), (61, 60, 60)), 2, seed=4)
    assert set(modes) == {"dark grey", "dark grey 2"}
    assert modes[0] == modes[2] != modes[1] == modes[3]


def test_more_kinds_than_images_are_refused() -> None:
    with pytest.raises(ModeError, match="--mode-count 3"):
        modes_by_colour(images(DARK, VIOLET), 3, seed=0)


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((0.1, 0.1, 0.1), "dark grey"),
        ((0.5, 0.5, 0.5), "grey"),
        ((0.6, 0.3, 0.65), "violet"),
        ((0.9, 0.6, 0.75), "bright pink"),
        ((0.3, 0.0, 0.0), "dark red"),
    ],
)
def test_colours_have_names(colour: tuple[float, float, float], name: str) -> None:
    assert colour_name(np.array(colour)) == name
