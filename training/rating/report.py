"""The results of a rating study as JSON, Markdown and HTML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from ..reports.html_page import bullets, captioned, cards, inline_svg, page, plot, section, table
from ..statistics.crossed import Estimate
from .page import SCALE
from .scores import (
    HIGHEST,
    LOWEST,
    TAKEN_FOR_REAL,
    Difference,
    Ratings,
    SourceScore,
    agreement,
    differences,
    source_scores,
)
from .study_files import Key, Sheet

_WANTED_RATERS = 3
_SCALE_COLOURS = ("#b2462f", "#e0a184", "#a9b0ba", "#86b3d9", "#2f6fb2")  # artificial to real
_SPECIAL_IN_MARKDOWN = re.compile(r"([\\`*_\[\]<>|])")


@dataclass(frozen=True)
class Study:
    """A scored study: the complete ``ratings`` and the results."""

    key: Key
    sheets: Sequence[Sheet]
    ratings: Ratings
    scores: Sequence[SourceScore]
    agreement: Estimate | None
    differences: Sequence[Difference]


@dataclass(frozen=True)
class _Table:
    heading: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str


def score_study(key: Key, sheets: Sequence[Sheet], ratings: Ratings, seed: int) -> Study:
    """Score ``ratings``, the combined ``sheets``; resamples and permutations are drawn from ``seed``."""
    return Study(
        key, sheets, ratings, source_scores(ratings), agreement(ratings, seed), differences(ratings, seed)
    )


def study_record(study: Study) -> dict[str, Any]:
    """All results in JSON types, including the single ratings."""
    ratings = study.ratings
    return {
        "set": study.key.set_id,
        "settings": dict(study.key.settings),
        "scale": dict(enumerate(SCALE, start=LOWEST)),
        "sources": [{**asdict(score), "ratings": _counts(study, score.source)} for score in study.scores],
        "differences": [asdict(difference) for difference in study.differences],
        "krippendorff_alpha_ordinal": asdict(study.agreement) if study.agreement else None,
        "raters": [
            {
                "rater": sheet.rater,
                "file": sheet.path.name,
                "rated": len(sheet.ratings),
                "means": _rater_means(study, number),
                "median_seconds": median(sheet.seconds.values()),
            }
            for number, sheet in enumerate(study.sheets)
        ],
        "items": [
            {
                "item": item,
                **asdict(study.key.items[item]),
                "mean": float(column.mean()),
                "ratings": dict(zip(ratings.raters, column.tolist(), strict=True)),
            }
            for item, column in zip(ratings.items, ratings.values.T, strict=True)
        ],
        "notes": study_notes(study),
    }


def study_notes(study: Study) -> list[str]:
    """Caveats for readers who want to quote the numbers."""
    notes = []
    raters, items = study.ratings.values.shape
    if raters < _WANTED_RATERS:
        counted = "1 rater" if raters == 1 else f"{raters} raters"
        notes.append(f"Only {counted}: ask at least {_WANTED_RATERS}.")
    if raters == 1:
        notes.append("With one rater the intervals say what other images would give, not what others see.")
    if left_out := len(study.key.items) - items:
        notes.append(f"{left_out} of {len(study.key.items)} items are left out: not every rater rated them.")
    if study.agreement is None:
        notes.append("Agreement is not defined: it needs two raters and two different ratings.")
    return notes


def study_markdown(study: Study) -> str:
    """Tables and notes as Markdown."""
    parts = [f"# Image ratings ({study.key.set_id})", *(f"> {note}" for note in study_notes(study))]
    for part in _tables(study):
        rows = [part.header, ["---"] * len(part.header), *(map(_escaped, row) for row in part.rows)]
        lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        parts += [f"## {part.heading}", lines, part.note]
    return "\n\n".join(part for part in parts if part) + "\n"


def study_html(study: Study) -> str:
    """Tables, notes and a plot of the shares of the five ratings as a self-contained page."""
    headline = {
        f"mean opinion score, {score.source}": f"{score.mean_opinion_score.value:.2f}"
        for score in study.scores
    }
    headline |= {"raters": str(len(study.sheets)), "images": str(len(study.ratings.items))}
    sections = [cards(headline), section("Ratings given", _shares_picture(study))]
    for part in _tables(study):
        content = table(part.header, part.rows, numeric=part.header[1:])
        sections.append(section(part.heading, captioned(content, part.note)))
    return page("Image ratings", [*sections, section("Notes", bullets(study_notes(study)))])


def _tables(study: Study) -> list[_Table]:
    real = f"rated {TAKEN_FOR_REAL} or more"
    scores = [
        [
            score.source,
            str(score.items),
            _shown(score.mean_opinion_score),
            _interval(score.these_raters),
            _shown(score.taken_for_real, percent=True),
        ]
        for score in study.scores
    ]
    compared = [
        [
            f"{d.first} minus {d.second}",
            _shown(d.difference),
            _p(d.p_value),
            _interval(d.these_raters),
            _p(d.p_these_raters),
        ]
        for d in study.differences
    ]
    sources = study.ratings.sources
    raters = [
        [sheet.rater, *(f"{_rater_means(study, r)[source]:.2f}" for source in sources), f"{seconds:g}"]
        for r, sheet in enumerate(study.sheets)
        for seconds in [median(sheet.seconds.values())]
    ]
    alpha = [["Krippendorff's alpha, ordinal", _shown(study.agreement)]] if study.agreement else []
    tables = [
        _Table(
            "Mean opinion score",
            ["source", "images", "mean (95 % interval)", "these raters", real],
            scores,
            f"{LOWEST} = {SCALE[0]}, {HIGHEST} = {SCALE[-1]}. The intervals are for other raters and other "
            "images (two-way analysis of variance, Satterthwaite's degrees of freedom), so few raters make "
            "them wide; under 'these raters', for other images judged by the same raters.",
        ),
        _Table(
            "Differences",
            ["sources", "difference (95 % interval)", "p", "these raters", "p, these raters"],
            compared,
            "p is of the same model as the interval; for these raters it is of a permutation of the images. "
            "Two-sided, adjusted for the number of comparisons (Holm).",
        ),
        _Table("Raters", ["rater", *sources, "median seconds"], raters, "Means by source."),
        _Table(
            "Agreement",
            ["measure", "value (95 % interval)"],
            alpha,
            "1 is full agreement, 0 is chance; the interval is over images. Raters who cannot tell the "
            "sources apart agree little, so a low value beside a small difference is what good images give.",
        ),
    ]
    return [part for part in tables if part.rows]


def _counts(study: Study, source: str) -> dict[int, int]:
    """The number of times that each rating was given to images of ``source``."""
    values = study.ratings.of(source)
    return {level: int((values == level).sum()) for level in range(LOWEST, HIGHEST + 1)}


def _rater_means(study: Study, rater: int) -> Mapping[str, float]:
    return {source: float(study.ratings.of(source)[rater].mean()) for source in study.ratings.sources}


def _shares_picture(study: Study) -> str:
    """A plot of stacked bars, one per source, with the shares of the five ratings."""
    names = [score.source for score in study.scores]
    counts = np.array([list(_counts(study, name).values()) for name in names])
    shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    figure, axes = plot(height=1.2 + 0.45 * len(names))
    starts = np.zeros(len(names))
    for level, colour in enumerate(_SCALE_COLOURS):
        axes.barh(
            names, shares[:, level], left=starts, color=colour, label=f"{level + LOWEST} {SCALE[level]}"
        )
        starts += shares[:, level]
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="% of the ratings")
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        frameon=False,
        labelcolor=axes.xaxis.label.get_color(),
    )
    return inline_svg(figure, "ratings", "shares of the five ratings by source")


def _shown(estimate: Estimate, percent: bool = False) -> str:
    value = f"{100 * estimate.value:.0f} %" if percent else f"{estimate.value:.2f}"
    return f"{value} ({_interval(estimate, percent)})"


def _interval(estimate: Estimate, percent: bool = False) -> str:
    if estimate.low is None or estimate.high is None:
        return "no spread"
    if percent:
        return f"{100 * estimate.low:.0f} to {100 * estimate.high:.0f} %"
    return f"{estimate.low:.2f} to {estimate.high:.2f}"


def _p(value: float | None) -> str:
    if value is None:
        return "none"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _escaped(text: str) -> str:
    return _SPECIAL_IN_MARKDOWN.sub(r"\\\1", text)
