"""What each random transform does to a mask by itself, and which constraints the results always meet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from siamese_core.masks.random_transforms import (
    FLIPS,
    Mask,
    TransformError,
    TransformSettings,
    count_components,
    transform_mask,
)
from tests.support.datasets.mask_shapes import (
    BAR,
    BLOB,
    DOTS,
    EVERYTHING,
    SHAPE,
    STILL,
    THIN,
    differing,
    ellipse,
    rectangle,
)

ALONE: dict[str, dict[str, Any]] = {
    "scale": {"scale": (0.7, 1.3)},
    "translate": {"translate": 0.1},
    "rotate": {"rotate": 180},
    "flip": {"flip": "both"},
    "shear": {"shear": 20},
    "elastic": {"elastic": 0.12},
    "morph": {"morph": 3},
}


def draws(mask: Mask, settings: TransformSettings, count: int = 20, **options: Any) -> list[Mask]:
    return [transform_mask(mask, settings, seed, **options) for seed in range(count)]


def principal_axes(mask: Mask) -> tuple[float, float, float]:
    """Direction in degrees (0..180) of the long axis, and the standard deviations along and across it."""
    variances, axes = np.linalg.eigh(np.cov(np.nonzero(mask)))
    along = axes[:, 1]
    return np.degrees(np.arctan2(along[0], along[1])) % 180, variances[1] ** 0.5, variances[0] ** 0.5


def box_centre(mask: Mask) -> list[float]:
    return [(places.min() + places.max()) / 2 for places in np.nonzero(mask)]


# Every transform


@pytest.mark.parametrize("mask", [BLOB, BAR, DOTS, THIN, ~BLOB], ids=["blob", "bar", "dots", "thin", "most"])
def test_the_result_is_binary_and_of_the_same_shape(mask: Mask) -> None:
    before = mask.copy()
    for result in draws(mask, replace(EVERYTHING, area=(0, 1)), 5):
        assert result.shape == SHAPE
        assert result.dtype == np.bool_
        assert result.any()
    assert np.array_equal(mask, before)


@pytest.mark.parametrize("mask", [BLOB, BAR, DOTS, THIN, ~BLOB, np.ones((1, 1), bool)])
def test_settings_without_any_transform_return_the_mask_exactly(mask: Mask) -> None:
    for result in draws(mask, STILL, 3):
        assert np.array_equal(result, mask)


@pytest.mark.parametrize("settings", [TransformSettings(), EVERYTHING])
def test_a_seed_gives_one_mask_and_another_seed_another(settings: TransformSettings) -> None:
    first = draws(BLOB, settings, 10)
    np.random.seed(3)  # noqa: NPY002 - the global state must play no part
    assert all(map(np.array_equal, first, draws(BLOB, settings, 10)))
    assert differing(first) == 10


@pytest.mark.parametrize("seed", [-1, 2**64 - 1, 2**80])
def test_any_integer_is_a_seed(seed: int) -> None:
    assert transform_mask(BLOB, EVERYTHING, seed).any()


@pytest.mark.parametrize("name", ALONE)
def test_one_transform_varies_the_mask_by_itself(name: str) -> None:
    assert differing(draws(BLOB, replace(STILL, **ALONE[name]))) >= 4


@pytest.mark.parametrize("name", [name for name in ALONE if name not in ("elastic", "morph")])
def test_a_transform_draws_the_same_whichever_others_are_in_use(name: str) -> None:
    # Growing comes last, so what it started from can be told from its result.
    alone = draws(BLOB, replace(STILL, **ALONE[name]))
    with_morph = draws(BLOB, replace(STILL, **ALONE[name], morph=1))
    for before, after in zip(alone, with_morph, strict=True):
        assert np.array_equal(before & after, before) or np.array_equal(before & after, after)


# What lies beyond the frame


def test_an_object_at_the_edge_is_completed_by_its_mirror_image_when_it_moves_inwards() -> None:
    half = ellipse((36, -0.5), (10, 14))  # its straight side is the left edge of the frame
    inwards = replace(STILL, translate=0.1)
    moved = 0
    for cut, whole in zip(
        draws(half, inwards), draws(half, replace(inwards, beyond="mirrored")), strict=True
    ):
        left = int(np.flatnonzero(cut.any(axis=0))[0])
        assert np.array_equal(whole[:, left:], cut[:, left:])
        assert np.array_equal(whole[:, :left], cut[:, left : 2 * left][:, ::-1])
        moved += left > 0
    assert moved > 5


@pytest.mark.parametrize("settings", [TransformSettings(), replace(EVERYTHING, scale=(0.1, 0.2))])
def test_a_full_frame_stays_full_if_it_is_mirrored_beyond_its_edges(settings: TransformSettings) -> None:
    everywhere = replace(settings, beyond="mirrored", area=(0, 1))
    assert all(mask.all() for mask in draws(np.ones(SHAPE, bool), everywhere, 10))


@pytest.mark.parametrize("mask", [BLOB, THIN, np.ones((1, 1), bool)])
def test_a_mask_that_does_not_move_is_the_same_whatever_lies_beyond(mask: Mask) -> None:
    assert np.array_equal(transform_mask(mask, replace(STILL, beyond="mirrored"), 1), mask)


@pytest.mark.parametrize("settings", [TransformSettings(), EVERYTHING])
def test_what_lies_beyond_changes_no_draw(settings: TransformSettings) -> None:
    settings = replace(settings, area=(0, 1), morph=0)
    for without, beyond in zip(
        draws(BLOB, settings), draws(BLOB, replace(settings, beyond="mirrored")), strict=True
    ):
        assert np.array_equal(without & beyond, without)


# Each transform by itself


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.5, 2])
def test_scaling_multiplies_the_area_by_its_square_and_keeps_the_centre(factor: float) -> None:
    (result,) = draws(BLOB, replace(STILL, scale=(factor, factor)), 1)
    assert result.sum() / BLOB.sum() == pytest.approx(factor**2, rel=0.04)
    assert box_centre(result) == pytest.approx(box_centre(BLOB), abs=1)


def test_scales_fill_their_range() -> None:
    factors = [(mask.sum() / BLOB.sum()) ** 0.5 for mask in draws(BLOB, replace(STILL, scale=(0.7, 1.3)), 60)]
    assert 0.65 < min(factors) < 0.8
    assert 1.2 < max(factors) < 1.35


def test_translation_moves_the_mask_by_whole_pixels_along_both_axes() -> None:
    moves = []
    for result in draws(BLOB, replace(STILL, translate=0.1), 60):
        down, right = (int(a - b) for a, b in zip(box_centre(result), box_centre(BLOB), strict=True))
        assert np.array_equal(result, np.roll(BLOB, (down, right), axis=(0, 1)))
        moves.append((down, right))
    farthest = np.abs(moves).max(axis=0)
    # Fractions of the own side: 7.2 and 9.6 pixels.
    assert farthest.tolist() == [7, 10]
    assert np.min(moves, axis=0).max() < 0 < np.max(moves, axis=0).min()


@pytest.mark.parametrize("shape", [(80, 80), (64, 128), (128, 64)])
def test_rotation_turns_within_its_limit_and_keeps_proportions_in_every_frame(shape: tuple[int, int]) -> None:
    bar = rectangle(shape[0] // 2 - 4, shape[1] // 2 - 20, 8, 40, shape)
    _, length, width = principal_axes(bar)
    turns = []
    for result in draws(bar, replace(STILL, rotate=30), 40):
        direction, new_length, new_width = principal_axes(result)
        assert (new_length, new_width) == pytest.approx((length, width), rel=0.05)
        turns.append((direction + 90) % 180 - 90)
    assert -30.5 < min(turns) < -20
    assert 20 < max(turns) < 30.5


@pytest.mark.parametrize("flip", FLIPS)
def test_flips_mirror_losslessly_in_the_allowed_directions_only(flip: str) -> None:
    mask = np.roll(BLOB, (-5, 3), axis=(0, 1))
    rows, columns = (slice(places.min(), places.max() + 1) for places in np.nonzero(mask))
    crop = mask[rows, columns]
    allowed = {"none": [crop], "horizontal": [crop, crop[:, ::-1]], "vertical": [crop, crop[::-1]]}
    allowed["both"] = [*allowed["horizontal"], crop[::-1], crop[::-1, ::-1]]
    results = draws(mask, replace(STILL, flip=flip))
    assert {result[rows, columns].tobytes() for result in results} == {
        np.ascontiguousarray(image).tobytes() for image in allowed[flip]
    }
    assert all(result.sum() == mask.sum() for result in results)


def test_shear_slants_upright_edges_and_keeps_the_area() -> None:
    column = rectangle(16, 44, 40, 8)
    slants = []
    for result in draws(column, replace(STILL, shear=20), 40):
        assert result.sum() == pytest.approx(column.sum(), rel=0.05)
        assert result.any(axis=1).sum() == 40
        slants.append(principal_axes(result)[0] - 90)
    assert -21 < min(slants) < -12
    assert 12 < max(slants) < 21


@pytest.mark.parametrize("strength", [0.03, 0.12])
def test_bending_moves_no_outline_farther_than_its_strength_and_tears_no_object(strength: float) -> None:
    reach = strength * 72 + 1
    disc, shrunk, grown = (ellipse((36, 48), (22 + change, 22 + change)) for change in (0, -reach, reach))
    results = draws(disc, replace(STILL, elastic=strength))
    for result in results:
        assert (result <= grown).all()
        assert (result >= shrunk).all()
        assert count_components(result) == count_components(~result) == 1
    assert differing(results) == len(results)


def test_stronger_bending_changes_more() -> None:
    changes = [
        np.mean([(mask ^ BLOB).mean() for mask in draws(BLOB, replace(STILL, elastic=strength))])
        for strength in (0.02, 0.05, 0.12)
    ]
    assert changes[0] < 0.6 * changes[1] < 0.6 * 0.6 * changes[2]


def test_growing_and_shrinking_go_up_to_their_limit_and_never_beyond() -> None:
    square = rectangle(20, 30, 21, 21)
    heights = {int(result.any(axis=1).sum()) for result in draws(square, replace(STILL, morph=2), 40)}
    assert heights == {17, 19, 21, 23, 25}
    for result in draws(square, replace(STILL, morph=2), 10):
        assert (result >= square).all() or (result <= square).all()


def test_growing_is_round_and_shrinking_deletes_what_is_thinner() -> None:
    dot = rectangle(36, 48, 1, 1)
    largest = max(draws(dot, replace(STILL, morph=8, attempts=50)), key=np.sum)
    assert np.array_equal(largest, ellipse((36, 48), (8, 8)))
    results = draws(THIN, replace(STILL, morph=1, attempts=50))
    assert {int(result.any(axis=1).sum()) for result in results} == {1, 3}


def test_growing_near_the_border_stays_in_the_frame() -> None:
    corner = rectangle(0, 0, 10, 10)
    largest = max(draws(corner, replace(STILL, morph=3)), key=np.sum)
    assert largest.any(axis=1).sum() == largest.any(axis=0).sum() == 13
    assert not largest[-5:].any()


def test_an_object_just_outside_grows_into_the_frame() -> None:
    mask = rectangle(36, 46, 8, 8) | rectangle(36, 6, 2, 2) | rectangle(36, 92, 2, 2)
    settings = replace(STILL, scale=(1.2, 1.2), morph=3)
    assert count_components(transform_mask(mask, replace(settings, morph=0), 0)) == 1
    counts = {result[:, :6].sum() for result in draws(mask, settings)}
    assert len(counts) > 2


# Thin masks and masks of many objects


def test_a_thin_line_survives_turning() -> None:
    for result in draws(THIN, replace(STILL, rotate=180)):
        long_enough = min(np.ptp(np.argwhere(result), axis=0).max() + 1, 76)
        assert result.sum() > 0.5 * long_enough


@pytest.mark.parametrize("settings", [{"elastic": 0.05}, {"scale": (1.1, 1.1)}, {"translate": 0.03}])
def test_many_objects_stay_many(settings: dict[str, Any]) -> None:
    assert count_components(DOTS) == 11 * 15
    for result in draws(DOTS, replace(STILL, **settings), 5):
        assert count_components(result) > 0.6 * 11 * 15


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        (["..."], 0),
        (["#.#", "...", "#.#"], 4),
        (["#..", ".#.", "..#"], 1),
        (["..#", ".#.", "#.."], 1),
        (["#.#", "#.#", "###"], 1),
        (["###", "#.#", "#.#"], 1),
        (["##.", "...", ".##"], 2),
        (["#.#.#", ".#.#.", "#...#"], 1),
        (["#####", "#...#", "#.#.#", "#...#", "#####"], 2),
        (["..#", "#.."], 2),
    ],
)
def test_objects_are_counted_with_corners_as_connections(rows: list[str], count: int) -> None:
    assert count_components(np.array([[pixel == "#" for pixel in row] for row in rows])) == count


# A second mask


def test_a_second_mask_is_transformed_by_draws_of_its_own_and_added() -> None:
    settings = replace(STILL, translate=0.1)
    left, right = rectangle(30, 20, 9, 9), rectangle(30, 60, 9, 9)
    single = draws(left, settings)
    joint = draws(left, settings, other=right)
    moves = set()
    for first, both in zip(single, joint, strict=True):
        second = both & ~first
        assert np.array_equal(first | second, both)
        assert first.sum() == second.sum() == 81
        moves.add(tuple(np.subtract(box_centre(second), box_centre(first)).tolist()))
    assert len(moves) > 10


def test_constraints_hold_for_the_union() -> None:
    left, right = rectangle(30, 20, 9, 9), rectangle(30, 60, 9, 9)
    area = 1.5 * 81 / left.size
    with pytest.raises(TransformError, match="area"):
        transform_mask(left, replace(STILL, area=(area, 1)), 0)
    assert transform_mask(left, replace(STILL, area=(area, 1)), 0, right).sum() == 162
    with pytest.raises(TransformError, match=r"components 1 to 1 failed 1 time \(nearest: 2\)"):
        transform_mask(left, replace(STILL, components=(1, 1)), 0, right)


# Constraints


@pytest.mark.parametrize(("move", "count"), [(0, 200), (-20, 40)], ids=["middle", "edge"])
def test_hundreds_of_draws_meet_every_constraint(move: int, count: int) -> None:
    settings = replace(EVERYTHING, area=(0.08, 0.14), inside=True, components=(1, 1))
    for result in draws(np.roll(BLOB, move, axis=1), settings, count):
        assert 0.08 <= result.mean() <= 0.14
        assert not (result[0].any() or result[-1].any() or result[:, 0].any() or result[:, -1].any())
        assert count_components(result) == 1


def test_the_default_area_is_kept_where_shapes_may_leave_the_frame() -> None:
    corner = ellipse((8, 8), (6, 6))
    areas = [result.mean() for result in draws(corner, TransformSettings(translate=0.3), 60)]
    assert min(areas) >= 0.005
    assert min(areas) < 0.5 * corner.mean()


@pytest.mark.parametrize("elastic", [0, 0.12])
@pytest.mark.parametrize("scale", [2, 3, 10])
def test_an_object_that_left_the_frame_altogether_is_not_inside(scale: float, elastic: float) -> None:
    # Of what is left, nothing touches the border.
    mask = sum((rectangle(36, column, 2, 2) for column in (6, 46, 86)), np.zeros(SHAPE, bool))
    settings = replace(STILL, scale=(scale, scale), elastic=elastic)
    assert count_components(transform_mask(mask, settings, 0)) == 1
    with pytest.raises(TransformError, match=r"inside failed 1 time \(nearest: \d+ pixels too far out\)"):
        transform_mask(mask, replace(settings, inside=True), 0)
    whole = transform_mask(mask, replace(settings, scale=(1, 1), inside=True, attempts=50), 0)
    assert count_components(whole) == 3


def test_a_constraint_picks_among_the_draws_and_changes_none() -> None:
    free = replace(EVERYTHING, area=(0, 1))
    for seed in range(12):
        result = transform_mask(BLOB, free, seed)
        border = np.concatenate([result[[0, -1]].ravel(), result[:, [0, -1]].ravel()])
        if not border.any():
            constrained = transform_mask(BLOB, replace(free, inside=True, components=(1, 0)), seed)
            assert np.array_equal(constrained, result)


def test_a_mask_that_touches_the_border_can_be_moved_inside() -> None:
    mask = rectangle(20, 0, 20, 20)
    settings = replace(STILL, translate=0.1, inside=True, attempts=50)
    assert all(not result[:, 0].any() for result in draws(mask, settings))
    with pytest.raises(TransformError, match=r"inside failed 1 time \(nearest: 1 pixel too far out\)"):
        transform_mask(mask, replace(STILL, inside=True), 0)


def test_an_impossible_area_stops_with_how_often_and_how_near() -> None:
    square = rectangle(10, 10, 36, 48)
    with pytest.raises(TransformError) as caught:
        transform_mask(square, replace(STILL, area=(0.5, 0.6), attempts=7), 0)
    assert str(caught.value) == (
        "No transform of the mask met the constraints in 7 attempts: area 0.5 to 0.6 failed 7 times "
        "(nearest: 0.25). Relax 'area', change the ranges of the transforms, or raise 'attempts'."
    )


def test_every_constraint_that_failed_is_named_with_the_commonest_first() -> None:
    settings = TransformSettings(translate=0.3, area=(0.05, 0.5), inside=True, components=(3, 0), attempts=40)
    with pytest.raises(
        TransformError,
        match=r"in 40 attempts: components 3 or more failed 40 times \(nearest: 1\); "
        r"inside failed \d+ times \(nearest: \d+ pixels? too far out\).*\. Relax 'components'",
    ):
        transform_mask(BLOB, settings, 0)


def test_an_empty_result_is_refused_even_where_no_area_is_asked_for() -> None:
    with pytest.raises(TransformError, match=r"area 0 to 1 failed \d+ times? \(nearest: 0\)"):
        draws(rectangle(0, 0, 1, 1), replace(STILL, translate=1), 20)


# Many masks
