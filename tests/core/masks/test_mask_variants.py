"""Many variants of many masks: their order, number, seeds and refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from siamese_core.errors import UserError
from siamese_core.masks.random_transforms import (
    Mask,
    TransformError,
    TransformSettings,
    Variant,
    expand_masks,
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
    rectangle,
)


def numbers(variants: list[Variant]) -> list[tuple[int, int]]:
    return [(item.source, item.variant) for item in variants]


def by_number(variants: list[Variant]) -> dict[tuple[int, int], bytes]:
    return {(item.source, item.variant): item.mask.tobytes() for item in variants}


def test_every_mask_gets_its_variants_in_order() -> None:
    assert numbers(expand_masks([BLOB, BAR], EVERYTHING, 0)) == [(0, 0), (1, 0)]
    several = expand_masks([BLOB, BAR], EVERYTHING, 0, variants=3)
    assert numbers(several) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert len(set(by_number(several).values())) == 6


@pytest.mark.parametrize(
    ("total", "counts"), [(1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1]), (7, [3, 2, 2]), (8, [3, 3, 2])]
)
def test_a_total_is_met_exactly_and_as_evenly_as_possible(total: int, counts: list[int]) -> None:
    result = expand_masks([BLOB, BAR, THIN], STILL, 0, total=total)
    assert numbers(result) == [(k, variant) for k in range(3) for variant in range(counts[k])]


def test_a_variant_is_the_same_whatever_else_is_made() -> None:
    reference = by_number(expand_masks([BLOB, BAR, DOTS], EVERYTHING, 5, variants=4))
    others = [
        expand_masks([BLOB, BAR, DOTS], EVERYTHING, 5, variants=2),
        expand_masks([BLOB, BAR, DOTS], EVERYTHING, 5, total=7),
        expand_masks([BLOB, BAR], EVERYTHING, 5, variants=4),
    ]
    for result in others:
        assert by_number(result).items() <= reference.items()
    replaced = by_number(expand_masks([THIN, BAR, THIN], EVERYTHING, 5, variants=4))
    assert {key for key in reference if replaced[key] == reference[key]} == {(1, k) for k in range(4)}


def test_equal_masks_at_different_places_differ_and_so_do_seeds() -> None:
    results = [
        item.mask for seed in range(2) for item in expand_masks([BLOB] * 3, EVERYTHING, seed, variants=2)
    ]
    assert differing(results) == 12


def test_second_masks_go_round_by_source() -> None:
    corners = [rectangle(0, 0, 5, 5), rectangle(60, 80, 5, 5)]
    results = expand_masks([BLOB, BAR, THIN], STILL, 0, variants=2, others=corners)
    for item in results:
        expected = [BLOB, BAR, THIN][item.source] | corners[item.source % 2]
        assert np.array_equal(item.mask, expected)


def test_sources_may_have_sizes_of_their_own() -> None:
    small = rectangle(5, 5, 10, 10, (24, 32))
    assert [item.mask.shape for item in expand_masks([BLOB, small], EVERYTHING, 0)] == [SHAPE, (24, 32)]


def test_progress_is_reported_after_each_mask_and_can_end_the_work() -> None:
    finished: list[int] = []
    expand_masks([BLOB, BAR], STILL, 0, variants=2, on_item=finished.append)
    assert finished == [1, 2, 3, 4]

    def stop(number: int) -> None:
        finished.append(number)
        if number == 2:
            raise KeyboardInterrupt

    finished.clear()
    with pytest.raises(KeyboardInterrupt):
        expand_masks([BLOB, BAR], STILL, 0, variants=2, on_item=stop)
    assert finished == [1, 2]


def test_a_failure_names_the_mask_that_it_happened_to() -> None:
    with pytest.raises(TransformError, match="No transform of mask 2 of 3 met the constraints in 1 attempt:"):
        expand_masks([BLOB, THIN, BLOB], replace(STILL, area=(0.05, 1)), 0)


# Refusals


def test_an_empty_mask_is_refused() -> None:
    empty = np.zeros(SHAPE, bool)
    with pytest.raises(
        UserError, match="There is no foreground to transform in the mask; use a mask that has some"
    ):
        transform_mask(empty, STILL, 0)
    with pytest.raises(UserError, match="in the second mask of the mask;"):
        transform_mask(BLOB, STILL, 0, empty)


def test_a_second_mask_of_another_size_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        transform_mask(BLOB, STILL, 0, BLOB.T.copy())
    assert str(caught.value) == (
        "The size of the second mask of the mask is 72 x 96 pixels; resize it to that of the mask, 96 x 72."
    )


def test_all_masks_are_checked_before_the_first_is_transformed() -> None:
    finished: list[int] = []
    with pytest.raises(UserError, match="no foreground to transform in mask 2 of 2"):
        expand_masks([BLOB, BLOB & False], STILL, 0, on_item=finished.append)
    with pytest.raises(UserError, match="size of the second mask of mask 2 of 2 is 2 x 3 pixels"):
        expand_masks([BLOB, BLOB], STILL, 0, others=[BLOB, np.ones((3, 2), bool)], on_item=finished.append)
    assert not finished


@pytest.mark.parametrize("mask", [np.ones((4, 4), np.uint8), np.ones((4, 4, 3), bool)])
def test_what_is_no_binary_plane_is_a_defect_of_the_caller(mask: Any) -> None:
    with pytest.raises(ValueError, match=r"the mask must be \(H, W\) bool, not \(4, 4") as caught:
        transform_mask(mask, STILL, 0)
    assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize("lists", [([], None), ([BLOB], [])])
def test_no_masks_are_refused(lists: tuple[list[Mask], list[Mask] | None]) -> None:
    with pytest.raises(UserError, match="There are no masks to transform; give at least one"):
        expand_masks(lists[0], STILL, 0, others=lists[1])


@pytest.mark.parametrize("count", [0, -1, 1.5])
@pytest.mark.parametrize("name", ["variants", "total"])
def test_counts_below_one_are_refused(name: str, count: Any) -> None:
    with pytest.raises(UserError, match=rf"^{name} is {count}; give a whole number of 1 or more\.$"):
        expand_masks([BLOB], STILL, 0, **{name: count})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scale", (0.05, 1), "scale is (0.05, 1); give two numbers from 0.1 to 10, the smaller first."),
        ("scale", (1, 11), "scale is (1, 11); give two numbers from 0.1 to 10, the smaller first."),
        ("scale", (2, 1), "scale is (2, 1); give two numbers from 0.1 to 10, the smaller first."),
        ("translate", -0.1, "translate is -0.1; give a number from 0 to 1."),
        ("translate", float("nan"), "translate is nan; give a number from 0 to 1."),
        ("rotate", 181, "rotate is 181; give a number from 0 to 180."),
        ("rotate", "30", "rotate is 30; give a number from 0 to 180."),
        ("flip", "sideways", "flip is 'sideways'; use one of none, horizontal, vertical and both."),
        ("shear", 61, "shear is 61; give a number from 0 to 60."),
        ("elastic", 0.2, "elastic is 0.2; give a number from 0 to 0.12."),
        ("morph", -1, "morph is -1; give a whole number from 0 to 64."),
        ("morph", 1.5, "morph is 1.5; give a whole number from 0 to 64."),
        ("area", (0.6, 0.1), "area is (0.6, 0.1); give two numbers from 0 to 1, the smaller first."),
        ("area", (0, 60), "area is (0, 60); give two numbers from 0 to 1, the smaller first."),
        (
            "components",
            (3, 2),
            "components is (3, 2); give two whole numbers of 0 or more, the smaller first (0 is no limit).",
        ),
        (
            "components",
            (-1, 2),
            "components is (-1, 2); give two whole numbers of 0 or more, the smaller first (0 is no limit).",
        ),
        ("attempts", 0, "attempts is 0; give a whole number from 1 to 10000."),
        ("beyond", "outside", "beyond is 'outside'; use background or mirrored."),
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_range(name: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        TransformSettings(**{name: value})
    assert str(caught.value) == message


def test_foreground_cannot_be_kept_off_the_border_and_continued_there() -> None:
    with pytest.raises(UserError, match="set beyond to 'background'"):
        TransformSettings(inside=True, beyond="mirrored")


def test_a_lower_limit_on_objects_needs_no_upper_one() -> None:
    assert TransformSettings(components=(3, 0)).components == (3, 0)
