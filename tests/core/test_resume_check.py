"""The record of a run against that of the present one."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamese_core.resume_check import Difference, ResumeError, check_record, differences


def test_equal_records_do_not_differ_whatever_the_step_and_the_kind_of_sequence() -> None:
    assert differences({"a": [1, 2], "step": 3}, {"a": (1, 2), "step": 9}) == []


def test_every_entry_that_differs_is_told_with_both_values() -> None:
    found, wanted = {"a": 1, "gone": 2, "b": 3}, {"a": 1.5, "new": None, "b": 3, "c": "x"}
    assert differences(found, wanted) == [
        Difference("a", 1, 1.5),
        Difference("c", None, "x"),
        Difference("gone", 2, None),
    ]


def test_a_key_that_earlier_versions_did_not_write_is_compared_only_where_it_was_written() -> None:
    assert differences({"base": "a"}, {"base": "a", "base_parts": "b"}) == []
    assert differences({"base_parts": "a"}, {"base_parts": "b"}) == [Difference("base_parts", "a", "b")]
    assert differences({"base_parts": "a"}, {}) == [Difference("base_parts", "a", None)]


def test_of_mappings_the_entries_are_told() -> None:
    found = {"drawn": {"rotate": 20.0, "flip": "both"}, "other": {"a": 1}}
    wanted = {"drawn": {"rotate": 33.0, "flip": "both"}, "other": None}
    assert differences(found, wanted) == [
        Difference("drawn.rotate", 20.0, 33.0),
        Difference("other", {"a": 1}, None),
    ]


def test_an_error_carries_the_differences() -> None:
    with pytest.raises(ResumeError, match=r"set: the checkpoint .* a was 1 and is now 2") as error:
        check_record(Path("set"), {"a": 1, "b": 1}, {"a": 2, "b": 2}, may_differ=("b",))
    assert error.value.differences == (Difference("a", 1, 2),)
