"""Settings dataclasses: which numbers they take, how a refusal names them, and what a record keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from siamese_core.settings import (
    COUNT,
    DECAY,
    RATE,
    SHARE,
    SIDE,
    Range,
    SettingError,
    check_range,
    option,
    recorded,
)

NAN, INF = math.nan, math.inf


@dataclass(frozen=True)
class Settings:
    rate: float = option(0.1, "learning rate")
    decay: float = option(0.0, "weight decay", added_later=True)


@pytest.mark.parametrize(
    ("within", "taken", "refused"),
    [
        (COUNT, [1, 2, 10**9], [0, -1, NAN, INF]),
        (RATE, [1e-12, 1.0], [0.0, -1e-5, NAN, INF, -INF]),
        (SHARE, [0, 0.5, 1], [-0.01, 1.01, NAN]),
        (DECAY, [0, 0.999], [1, -0.1, NAN]),
        (SIDE, [64, 384, 16384], [0, -64, 100, 16448, 63]),
        (Range(-5, 5), [-5, 0, 5], [-6, 6, 10**400]),
    ],
)
def test_a_range_holds_its_numbers_and_no_others(
    within: Range, taken: list[float], refused: list[float]
) -> None:
    assert [within.problem(number) for number in taken] == [None] * len(taken)
    assert all(within.problem(number) for number in refused)


@pytest.mark.parametrize(
    ("within", "value", "message"),
    [
        (COUNT, 0, "--x must be at least 1, not 0"),
        (RATE, -1.0, "--x must be above 0, not -1"),
        (Range(0), -2, "--x must be 0 or more, not -2"),
        (SHARE, NAN, "--x must lie in 0..1, not nan"),
        (DECAY, 1.0, "--x must lie in 0..1 and below 1, not 1"),
        (Range(0, 5, open_low=True), 0, "--x must be above 0 and at most 5, not 0"),
        (SIDE, 100, "--x must be a positive multiple of 64, not 100"),
        (SIDE, 64_000, "--x must be at most 16384, not 64000"),
        (COUNT, (3, 0), "--x must be at least 1, not 0"),
    ],
)
def test_a_refusal_names_the_flag_the_range_and_the_value(within: Range, value: object, message: str) -> None:
    with pytest.raises(SettingError) as refusal:
        check_range("--x", value, within)
    assert str(refusal.value) == message


def test_what_is_not_given_is_in_no_range_and_allowed() -> None:
    check_range("--x", None, COUNT)
    check_range("--x", "text", None)


def test_a_setting_added_later_is_left_out_of_records_at_its_default() -> None:
    assert recorded(Settings()) == {"rate": 0.1}


def test_a_setting_added_later_is_recorded_at_any_other_value() -> None:
    assert recorded(Settings(decay=0.5)) == {"rate": 0.1, "decay": 0.5}
