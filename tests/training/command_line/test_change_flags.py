"""Which settings a resumed run may change, and what a refusal advises."""

from __future__ import annotations

import argparse

import pytest

from siamese_core.resume_check import Difference, ResumeError, check_record
from training.command_line.change_flags import add_change_flags, changeable, flags_advised
from training.command_line.memory import OutOfMemory, memory_advised


def parsed(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_change_flags(parser)
    return parser.parse_args(flags)


def test_nothing_may_change_unless_it_is_asked_for() -> None:
    assert changeable(parsed()) == ()
    assert changeable(parsed("--change-steps")) == ("steps",)
    assert {"learning_rate", "mixed_precision"} <= {*changeable(parsed("--change-optimiser"))}
    assert "optimiser" not in changeable(parsed("--change-optimiser"))


@pytest.mark.parametrize(
    ("keys", "advice"),
    [
        (["learning_rate"], "--change-optimiser allows that"),
        (["learning_rate", "steps"], "--change-optimiser and --change-steps allows that"),
        (["learning_rate", "seed"], None),
        ([], None),
    ],
)
def test_a_refusal_names_the_flags_that_allow_all_of_it(keys: list[str], advice: str | None) -> None:
    with pytest.raises(ResumeError) as refusal, flags_advised():
        raise ResumeError("another run", [Difference(key, 1, 2) for key in keys])
    assert (advice or "allows that") in str(refusal.value) if advice else "allows" not in str(refusal.value)


def test_what_was_changed_before_identifies_no_run() -> None:
    check_record("run", {"seed": 1, "changes": [{"step": 4, "learning_rate": [1, 2]}]}, {"seed": 1})


def test_other_errors_than_of_memory_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_advised("lower --batch-size"):
        raise RuntimeError("shapes differ")
    with (
        pytest.raises(OutOfMemory, match="out of memory: lower --batch-size"),
        memory_advised("lower --batch-size"),
    ):
        raise MemoryError
