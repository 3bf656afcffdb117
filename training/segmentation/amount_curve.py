"""Scores against the number of synthetic pairs (paper, Fig. 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..reports.html_page import TEXT_COLOUR, captioned, inline_svg, plot
from .scores import ALL_IMAGES
from .training_sets import VariantSet

_COLOURS = ("#3b82f6", "#e08a1e", "#22a06b", "#a566e8")  # readable on white and on near-black


def amount_series(variants: Mapping[str, VariantSet]) -> list[list[str]]:
    """Series of variants that differ only in the number of synthetic pairs, fewest first, as lists of names.

    The variants of a series have the same synthetic folders and mixing, and the real pairs of the baseline.
    That is the first of ``variants`` and must have no synthetic pairs, otherwise there is no series.
    """
    baseline = next(iter(variants.values()))
    if baseline.synthetic:
        return []
    kinds: dict[Any, list[tuple[int, str]]] = {}
    for name, variant in variants.items():
        begins_alike = variant.fingerprints[: len(baseline.fingerprints)] == baseline.fingerprints
        if variant.synthetic and variant.real == baseline.real and begins_alike:
            kind = (variant.fingerprints, variant.mixing)
            kinds.setdefault(kind, []).append((variant.synthetic, name))
    return [[name for _, name in sorted(found)] for found in kinds.values() if len(dict(found)) > 1]


def amount_curve(group: Mapping[str, Any], measure: str, title: str) -> str:
    """The group's scores over all test images as a figure in HTML; empty if the amount does not vary.

    Bars are the 95 % intervals of the difference from the baseline, drawn around the variant's score: if a
    bar does not touch the baseline, the difference is significant.
    """
    entries = {entry["name"]: entry for entry in group["variants"]}
    if not group["curves"]:
        return ""
    baseline = group["variants"][0]
    figure, axes = plot(height=3.4)
    axes.axhline(_mean(baseline, measure), color=TEXT_COLOUR, linewidth=1, linestyle="--")
    for number, names in enumerate(group["curves"]):
        shown = [baseline, *(entries[name] for name in names)]
        colour = _COLOURS[number % len(_COLOURS)]
        for entry in shown:
            runs = entry["scores"][ALL_IMAGES][measure]["seeds"]
            axes.plot(
                [entry["synthetic_pairs"]] * len(runs), runs, ".", color=colour, alpha=0.5, markersize=7
            )
        axes.errorbar(
            [entry["synthetic_pairs"] for entry in shown],
            [_mean(entry, measure) for entry in shown],
            yerr=_bars(shown, measure),
            color=colour,
            marker="o",
            markersize=5,
            linewidth=1.8,
            elinewidth=1.2,
            capsize=4,
            label=f"{names[0]} to {names[-1]}",
        )
    axes.set(xlabel=f"synthetic pairs beside {baseline['real_pairs']} real ones", ylabel=title)
    amounts = {entries[name]["synthetic_pairs"] for names in group["curves"] for name in names}
    axes.set_xticks([0, *sorted(amounts)])
    if len(group["curves"]) > 1:
        axes.legend(frameon=False, labelcolor=TEXT_COLOUR)
    caption = (
        f"{title} over all test images against the number of synthetic pairs: mean over seeds, with a small "
        "dot for each. Bars: 95 % interval of the difference from the baseline, whose mean is the dashed "
        "line."
    )
    name = f"amounts-{group['experiment']}-{group['network']}-{measure}"
    return captioned(inline_svg(figure, name, f"{title} against the number of synthetic pairs"), caption)


def _mean(entry: Mapping[str, Any], measure: str) -> float:
    return float(entry["scores"][ALL_IMAGES][measure]["mean"])


def _bars(entries: Sequence[Mapping[str, Any]], measure: str) -> list[list[float]]:
    """Lengths of the bars below and above each entry's mean; 0 without an interval."""
    found = [entry.get("vs_baseline", {}).get(measure) for entry in entries]
    known = [None if one is None or one["low"] is None else one for one in found]
    return [
        [0.0 if one is None else one["difference"] - one["low"] for one in known],
        [0.0 if one is None else one["high"] - one["difference"] for one in known],
    ]
