"""Which pairs fill the batches of a training on real and synthetic pairs."""

from __future__ import annotations

import pytest

from siamese_core.seeds import epoch_order
from training.segmentation.mixing import Mixing, mixed_order

REAL, SYNTHETIC = 5, 40


def order(mixing: Mixing, steps: int = 20, batch_size: int = 8, seed: int = 3) -> list[list[int]]:
    return list(mixed_order(mixing, REAL, SYNTHETIC, steps=steps, batch_size=batch_size, seed=seed))


def real_counts(batches: list[list[int]]) -> list[int]:
    return [sum(place < REAL for place in batch) for batch in batches]


def test_half_of_every_batch_is_real_however_few_real_pairs_there_are() -> None:
    batches = order(Mixing(real_share=0.5))
    assert real_counts(batches) == 20 * [4]
    seen = [place for batch in batches for place in batch]
    assert [seen.count(place) for place in range(REAL)] == REAL * [16]  # 80 draws of 5 pairs
    assert [seen.count(REAL + place) for place in range(SYNTHETIC)] == SYNTHETIC * [2]


@pytest.mark.parametrize("share", [0.3, 0.0, 1.0, 0.05])
def test_a_share_that_is_no_whole_number_of_pairs_holds_over_the_steps(share: float) -> None:
    counts = real_counts(order(Mixing(real_share=share), steps=100))
    assert sum(counts) == round(800 * share)
    assert max(counts) - min(counts) <= 1


def test_synthetic_pairs_come_first_and_real_ones_after_within_the_same_steps() -> None:
    batches = order(Mixing(then_real=6))
    assert real_counts(batches) == 14 * [0] + 6 * [8]
    assert all(len(batch) == 8 for batch in batches)


def test_a_mixture_can_come_before_real_pairs_alone() -> None:
    assert real_counts(order(Mixing(real_share=0.25, then_real=5))) == 15 * [2] + 5 * [8]


def test_without_a_rule_the_order_is_that_of_all_pairs_together() -> None:
    assert order(Mixing()) == [epoch_order(3, step, 8, REAL + SYNTHETIC) for step in range(20)]


def test_one_kind_alone_has_nothing_to_mix() -> None:
    alone = list(mixed_order(Mixing(real_share=0.5), REAL, 0, steps=3, batch_size=2, seed=1))
    assert alone == [epoch_order(1, step, 2, REAL) for step in range(3)]


def test_another_seed_gives_another_order() -> None:
    assert order(Mixing(real_share=0.5), seed=4) != order(Mixing(real_share=0.5), seed=5)


@pytest.mark.parametrize(
    ("mixing", "words"),
    [
        (Mixing(), ""),
        (Mixing(real_share=0.5), "50% real in a batch"),
        (Mixing(then_real=200), "synthetic first, last 200 steps real"),
        (Mixing(real_share=0.25, then_real=9), "25% real in a batch, last 9 steps real"),
    ],
)
def test_a_mixing_is_said_in_words(mixing: Mixing, words: str) -> None:
    assert mixing.in_words == words
