from __future__ import annotations

import numpy as np
import pytest

from siamese_core.contact_sheet import OUTLINE, grid, outlined

RED = np.full((4, 6, 3), (200, 0, 0), dtype=np.uint8)
MASK = np.zeros((4, 6), dtype=np.uint8)


def test_tiles_stand_in_rows_with_white_gaps() -> None:
    sheet = grid([[RED, MASK], [MASK, RED]], gap=2)

    assert sheet.shape == (4 + 2 + 4, 6 + 2 + 6, 3)
    assert sheet.dtype == np.uint8
    assert np.array_equal(sheet[:4, :6], RED)
    assert np.array_equal(sheet[6:, 8:], RED)
    assert not sheet[:4, 8:].any()
    assert (sheet[4:6] == 255).all()
    assert (sheet[:, 6:8] == 255).all()


def test_a_mask_is_shown_in_grey() -> None:
    mask = np.arange(24, dtype=np.uint8).reshape(4, 6)

    assert np.array_equal(grid([[mask]]), np.stack([mask] * 3, axis=-1))


def test_short_rows_are_filled_with_white() -> None:
    sheet = grid([[RED, RED, RED], [RED], []], gap=1)

    assert sheet.shape == (3 * 5 - 1, 3 * 7 - 1, 3)
    assert np.array_equal(sheet[5:9, :6], RED)
    assert (sheet[5:, 7:] == 255).all()
    assert (sheet[10:] == 255).all()


@pytest.mark.parametrize("rows", [[], [[]], [[], []]])
def test_a_sheet_of_nothing_is_refused(rows: list[list[np.ndarray]]) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        grid(rows)


def test_only_the_inner_boundary_is_painted() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    mask = np.zeros((8, 9), dtype=np.bool_)
    mask[2:6, 3:8] = True
    inside = np.zeros_like(mask)
    inside[3:5, 4:7] = True

    result = outlined(image, mask)

    assert (result[mask & ~inside] == OUTLINE).all()
    assert np.array_equal(result[inside | ~mask], image[inside | ~mask])


@pytest.mark.parametrize("value", [False, True])
def test_an_empty_and_a_full_mask_have_no_outline(value: bool) -> None:
    assert np.array_equal(outlined(RED, np.full((4, 6), value)), RED)


def test_the_image_itself_stays_as_it_is() -> None:
    image, mask = RED.copy(), np.zeros((4, 6), dtype=np.bool_)
    mask[1, 1] = True

    assert (outlined(image, mask)[1, 1] == OUTLINE).all()
    assert np.array_equal(image, RED)
