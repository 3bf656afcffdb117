"""Pairs divided into sets: in proportion, reproducibly, without loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamese_core.pairs.pair_files import Pair
from training.preparation.splits import SplitError, parse_ratio, pooled, split_by_count, split_by_ratio


def numbered(count: int, prefix: str = "") -> list[Pair]:
    stems = [f"{prefix}{k}" for k in range(count)]
    return [Pair(stem, Path(f"{stem}.png"), Path(f"{stem}_mask.png"), None) for stem in stems]


def stems(sets: dict[str, list[Pair]]) -> dict[str, list[str]]:
    return {name: [pair.stem for pair in pairs] for name, pairs in sets.items()}


@pytest.mark.parametrize(("count", "sizes"), [(500, (300, 100, 100)), (458, (275, 91, 92)), (5, (3, 1, 1))])
def test_papers_ratio_gives_its_numbers_of_training_pairs(count: int, sizes: tuple[int, int, int]) -> None:
    pairs = numbered(count)
    sets = split_by_ratio(pairs, (3, 1, 1), seed=42)
    assert tuple(map(len, sets.values())) == sizes
    assert list(sets) == ["train", "validation", "test"]
    assert sorted(stem for part in stems(sets).values() for stem in part) == sorted(
        pair.stem for pair in pairs
    )


def test_share_of_zero_leaves_a_set_out() -> None:
    assert {name: len(pairs) for name, pairs in split_by_ratio(numbered(10), (4, 0, 1), 0).items()} == {
        "train": 8,
        "test": 2,
    }


def test_draw_depends_on_the_seed_and_not_on_the_order_of_the_files() -> None:
    pairs = numbered(40)
    once = stems(split_by_ratio(pairs, (3, 1, 1), seed=42))
    assert stems(split_by_ratio(pairs[::-1], (3, 1, 1), seed=42)) == once
    assert stems(split_by_ratio(pairs, (3, 1, 1), seed=43)) != once
    counted = stems(split_by_count(pairs, 10, seed=42))
    assert stems(split_by_count(pairs[20:] + pairs[:20], 10, seed=42)) == counted


def test_sets_are_drawn_from_everywhere_and_kept_in_natural_order() -> None:
    sets = split_by_count(numbered(100), 50, seed=1)
    numbers = [int(stem) for stem in stems(sets)["train"]]
    assert numbers == sorted(numbers)
    assert numbers[-1] > 80
    assert numbers != list(range(50))


def test_smaller_training_set_is_part_of_a_larger_one() -> None:
    small, large = (set(stems(split_by_count(numbered(30), count, 42))["train"]) for count in (5, 12))
    assert small < large


def test_split_with_an_empty_set_is_refused() -> None:
    with pytest.raises(SplitError, match="3:1:1 of 2 pairs leaves none for"):
        split_by_ratio(numbered(2), (3, 1, 1), seed=0)
    with pytest.raises(SplitError, match="--train 4 of 4 pairs leaves none for test; lower it"):
        split_by_count(numbered(4), 4, seed=0)
    with pytest.raises(SplitError, match="--train 0 of 4 pairs leaves none for train; raise it"):
        split_by_count(numbered(4), 0, seed=0)


@pytest.mark.parametrize("text", ["3:1", "3:1:1:1", "a:b:c", "0:1:1", "3:-1:1", "0.6:0.2:0.2", ""])
def test_ratio_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(SplitError, match="such as 3:1:1"):
        parse_ratio(text)
    assert parse_ratio("12:0:3") == (12, 0, 3)


def test_pooled_pairs_have_their_sets_names_in_front_only_where_stems_are_shared() -> None:
    apart = {"train": numbered(2, "a"), "test": numbered(1, "b")}
    assert [pair.stem for pair in pooled(apart)] == ["a0", "a1", "b0"]
    shared = {"train": numbered(2), "test/Kvasir": numbered(1)}
    assert [pair.stem for pair in pooled(shared)] == ["train_0", "train_1", "Kvasir_0"]
    assert [pair.image.name for pair in pooled(shared)] == ["0.png", "1.png", "0.png"]
