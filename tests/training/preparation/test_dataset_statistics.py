"""The figures that describe a set of pairs, against counts by hand."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from numpy.typing import NDArray

from training.preparation.dataset_statistics import PairFacts, facts_table, pair_facts, set_facts


def mask(*rows: str) -> NDArray[np.bool_]:
    return np.array([[letter == "x" for letter in row] for row in rows])


def test_facts_of_a_pair() -> None:
    assert pair_facts(mask("xx..", "....", "...x")) == PairFacts((3, 4), 0.25, 2)
    assert pair_facts(mask("....", "....")) == PairFacts((2, 4), 0.0, 0)


def test_lesions_that_touch_at_a_corner_are_one() -> None:
    assert pair_facts(mask("x...", ".x..", "...x")).lesions == 2


def test_facts_of_a_set() -> None:
    shares = [0.0, 0.05, 0.1, 0.55, 1.0]
    sizes = [(10, 20), (10, 20), (30, 5), (10, 20), (10, 20)]
    facts = set_facts(
        [PairFacts(size, share, int(share > 0)) for size, share in zip(sizes, shares, strict=True)]
    )
    assert facts.pairs == 5
    assert list(facts.sizes.items()) == [("20 x 10", 4), ("5 x 30", 1)]
    assert (facts.smallest, facts.largest) == ((5, 10), (20, 30))
    assert facts.mask_share_mean == pytest.approx(0.34)
    assert facts.mask_share_quantiles["0.5"] == pytest.approx(0.1)
    assert facts.mask_share_quantiles["1"] == 1
    assert facts.mask_share_histogram == [2, 1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert facts.empty_masks == 1
    assert facts.lesions == {"0": 1, "1": 4}
    assert json.loads(json.dumps(asdict(facts)))["pairs"] == 5


def test_table_has_two_aligned_lines_for_every_set() -> None:
    one = set_facts([PairFacts((8, 8), 0.25, 1)])
    other = set_facts([PairFacts((8, 8), 0.5, 1), PairFacts((16, 12), 0.5, 3)])
    above, below = facts_table({"train": one, "test/a set": other}).split("\n\n")
    for table in (above, below):
        assert len({len(line) for line in table.splitlines()}) == 1
    assert "25.0 %" in above
    assert "1 to 3" in above
    assert "2 sizes, 8 to 12 x 8 to 16" in above
    assert below.splitlines()[1].split() == ["train", "0", "0", "1", *"0000000"]
