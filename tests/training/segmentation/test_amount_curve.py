"""Which variants make a curve over the number of synthetic pairs, and what it shows."""

from __future__ import annotations

import re
from typing import Any

import pytest

from training.segmentation import amount_curve
from training.segmentation.amount_curve import amount_series
from training.segmentation.mixing import Mixing
from training.segmentation.training_sets import VariantSet

HALF = Mixing(real_share=0.5)


def variant(real: int, synthetic: int, folders: str, mixing: Mixing | None = None) -> VariantSet:
    """``folders``: a letter for each folder's fingerprint, the real ones first."""
    return VariantSet((), real, synthetic, tuple(folders), mixing or Mixing())


def test_more_and_more_pairs_of_the_same_folder_are_a_series_fewest_first() -> None:
    variants = {
        "real": variant(10, 0, "r"),
        "4x": variant(10, 40, "rs"),
        "1x": variant(10, 10, "rs"),
        "2x": variant(10, 20, "rs"),
    }
    assert amount_series(variants) == [["1x", "2x", "4x"]]


def test_other_synthetic_folders_and_other_mixing_are_other_series() -> None:
    variants = {
        "real": variant(10, 0, "r"),
        "1x": variant(10, 10, "rs"),
        "2x": variant(10, 20, "rs"),
        "mask 1x": variant(10, 10, "rm"),
        "mask 2x": variant(10, 20, "rm"),
        "half 1x": variant(10, 10, "rs", HALF),
        "half 2x": variant(10, 20, "rs", HALF),
    }
    assert amount_series(variants) == [["1x", "2x"], ["mask 1x", "mask 2x"], ["half 1x", "half 2x"]]


@pytest.mark.parametrize(
    "variants",
    [
        {"real": variant(10, 0, "r")},
        {"real": variant(10, 0, "r"), "1x": variant(10, 10, "rs")},
        {"real": variant(10, 0, "r"), "one": variant(10, 10, "rs"), "other": variant(10, 10, "rm")},
        {"real": variant(10, 0, "r"), "1": variant(0, 10, "s"), "2": variant(0, 20, "s")},  # instead of real
        {"real": variant(10, 0, "r"), "1": variant(10, 10, "qs"), "2": variant(10, 20, "qs")},  # other real
        {"1x": variant(10, 10, "rs"), "2x": variant(10, 20, "rs"), "4x": variant(10, 40, "rs")},
    ],
    ids=["baseline", "one amount", "two kinds", "synthetic alone", "other real pairs", "no real baseline"],
)
def test_what_does_not_differ_in_its_amount_alone_is_no_series(variants: dict[str, VariantSet]) -> None:
    assert amount_series(variants) == []


def entry(name: str, synthetic: int, seeds: list[float], *interval: float) -> dict[str, Any]:
    mean = sum(seeds) / len(seeds)
    low, high = interval or (None, None)
    return {
        "name": name,
        "real_pairs": 10,
        "synthetic_pairs": synthetic,
        "scores": {"all images": {"dice": {"mean": mean, "seeds": seeds}}},
        "vs_baseline": {"dice": {"difference": mean - 0.5, "low": low, "high": high}} if synthetic else {},
    }


def group() -> dict[str, Any]:
    entries = [
        entry("real", 0, [0.4, 0.6]),
        entry("1x", 10, [0.5, 0.7], 0.05, 0.15),
        entry("2x", 20, [0.6, 0.7]),
    ]
    return {"experiment": "data", "network": "unet", "variants": entries, "curves": [["1x", "2x"]]}


def test_the_curve_draws_means_runs_and_the_intervals_of_the_differences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figures = []
    monkeypatch.setattr(amount_curve, "inline_svg", lambda figure, *_: figures.append(figure) or "")
    amount_curve.amount_curve(group(), "dice", "mDice")
    (axes,) = figures[0].axes

    baseline, *others = axes.lines
    assert list(baseline.get_ydata()) == [0.5, 0.5]
    runs = [list(line.get_ydata()) for line in others if line.get_marker() == "."]
    assert runs == [[0.4, 0.6], [0.5, 0.7], [0.6, 0.7]]
    (bars,) = axes.containers
    means, _, (stems,) = bars.lines
    assert list(means.get_xdata()) == [0, 10, 20]
    assert list(means.get_ydata()) == pytest.approx([0.5, 0.6, 0.65])
    drawn = [segment[:, 1].tolist() for segment in stems.get_segments()]
    assert drawn[0] == pytest.approx([0.5, 0.5])  # the baseline itself, and one without an interval: no bar
    assert drawn[1] == pytest.approx([0.55, 0.65])
    assert drawn[2] == pytest.approx([0.65, 0.65])


def test_the_figure_is_named_for_what_it_shows_and_left_out_where_nothing_varies() -> None:
    shown = amount_curve.amount_curve(group(), "dice", "mDice")
    assert shown.count("<svg") == 1
    assert re.search(r"mDice over all test images .* whose mean is the dashed line", shown)
    assert "synthetic pairs beside 10 real ones" in shown
    assert amount_curve.amount_curve({**group(), "curves": []}, "dice", "mDice") == ""
