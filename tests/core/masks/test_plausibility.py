"""What the masks of a whole folder say together: refused, or told once with count and first file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from siamese_core.masks.foreground_rule import PLAIN_MASKS, ForegroundRule
from siamese_core.masks.image_decoding import MaskError
from siamese_core.masks.mask_reading import MaskReading
from siamese_core.masks.plausibility import MaskSurvey

EMPTY, FULL = np.zeros((64, 64), bool), np.ones((64, 64), bool)
HALF = np.arange(64) < np.full((64, 1), 16)
DOT = EMPTY.copy()
DOT[5, 5] = True


def survey_of(
    *masks: NDArray[np.bool_] | MaskReading,
    size: tuple[int, int] | None = None,
    rule: ForegroundRule = PLAIN_MASKS,
) -> MaskSurvey:
    survey = MaskSurvey(rule, size)
    for number, mask in enumerate(masks):
        reading = mask if isinstance(mask, MaskReading) else MaskReading(mask)
        survey.add(Path(f"m{number}.png"), reading)
    return survey


def test_plain_masks_are_not_remarked_on() -> None:
    survey = survey_of(HALF, HALF, DOT)
    survey.refuse_implausible()
    assert survey.notes() == []
    assert survey.changes == []


def test_equal_notes_are_told_once_with_their_count_and_the_first_file() -> None:
    noted = MaskReading(HALF, "it was interpreted", "it used to be read otherwise")
    survey = survey_of(HALF, noted, noted)
    assert survey.notes() == ["2 of 3 masks: it was interpreted (first: m1.png)"]
    assert survey.changes == ["2 of 3 masks (first: m1.png): it used to be read otherwise"]


def test_empty_masks_are_told_and_only_empty_ones_refused() -> None:
    assert survey_of(HALF, EMPTY).notes() == ["1 of 2 masks without any foreground (first: m1.png)"]
    with pytest.raises(
        MaskError, match=r"All masks are empty \(2 masks, first: 'm0.png'\): no value is the label 3"
    ):
        survey_of(EMPTY, EMPTY, rule=ForegroundRule(label=3)).refuse_implausible(needs_foreground=False)


def test_files_that_are_all_black_may_be_meant_where_no_foreground_is_needed() -> None:
    black = MaskReading(EMPTY, is_blank=True)
    survey = survey_of(black, black)
    survey.refuse_implausible(needs_foreground=False)
    assert survey.notes() == ["2 of 2 masks without any foreground (first: m0.png)"]
    with pytest.raises(MaskError, match="All masks are empty"):
        survey.refuse_implausible()


def test_masks_without_background_are_told_and_refused_for_training() -> None:
    assert survey_of(HALF, FULL).notes() == ["1 of 2 masks with foreground everywhere (first: m1.png)"]
    with pytest.raises(MaskError, match=r"All masks are foreground everywhere \(2 masks, first: 'm0.png'\)"):
        survey_of(FULL, FULL).refuse_implausible()


def test_mostly_foreground_points_at_inverted_masks() -> None:
    assert survey_of(~HALF, ~HALF, HALF).notes() == [
        "2 of 3 masks with more than 50% foreground; --invert swaps it with the background (first: m0.png)"
    ]
    assert survey_of(~HALF, HALF, HALF).notes() == []


def test_foreground_that_is_lost_at_the_models_size_is_told_and_refused_where_none_is_left() -> None:
    assert survey_of(HALF, DOT, size=(8, 8)).notes() == [
        "1 of 2 masks with foreground, of which none is left at 8 px (first: m1.png)"
    ]
    with pytest.raises(MaskError, match=r"All masks lose all foreground at 8 px \(1 mask, first: 'm1.png'\)"):
        survey_of(EMPTY, DOT, size=(8, 8)).refuse_implausible()


def test_many_equal_masks_are_told() -> None:
    assert survey_of(*[HALF] * 8).notes() == ["8 of 8 masks, all of them alike (first: m0.png)"]
    assert survey_of(*[HALF] * 7).notes() == []
