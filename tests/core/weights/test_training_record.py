"""What is read from a model file's record of its training, and how prompts are drawn from it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from siamese_core.errors import CheckpointError
from siamese_core.weights.training_record import (
    draw_prompt,
    prompt_shares,
    recorded_prompts,
)


def test_shares_are_those_of_the_pairs_the_most_frequent_first() -> None:
    shares = prompt_shares(["b", "a", "c", "a"])
    assert list(shares.items()) == [("a", 0.5), ("b", 0.25), ("c", 0.25)]
    assert prompt_shares([]) == {}


@pytest.mark.parametrize(
    ("training", "shares"),
    [
        ({}, {}),
        ({"prompt": "a polyp"}, {"a polyp": 1.0}),
        ({"prompt": ""}, {"": 1.0}),
        ({"prompt": "a", "prompts": {"a": 0.75, "b": 0.25}}, {"a": 0.75, "b": 0.25}),
    ],
)
def test_a_record_tells_its_prompts_and_an_older_one_its_only_one(
    training: dict[str, Any], shares: dict[str, float]
) -> None:
    assert recorded_prompts(training) == shares


@pytest.mark.parametrize("prompts", [[], "a", {}, {"a": "b"}, {"a": -1}, {"a": 0}, {"a": float("nan")}])
def test_a_damaged_record_of_prompts_is_refused(prompts: object) -> None:
    with pytest.raises(CheckpointError, match="record of the prompts is damaged"):
        recorded_prompts({"prompt": "a", "prompts": prompts})


def test_draws_follow_the_shares_and_depend_on_seed_and_index_alone() -> None:
    shares = {"common": 0.9, "rare": 0.1, "never": 0.0}
    draws = [draw_prompt(shares, 42, index) for index in range(4000)]
    counts = Counter(draws)
    assert counts["never"] == 0
    assert abs(counts["rare"] / 4000 - 0.1) < 0.02
    turned = dict(reversed(shares.items()))
    assert [draw_prompt(turned, 42, index) for index in range(4000)] == draws
    assert [draw_prompt(shares, 43, index) for index in range(4000)] != draws
