"""A run's results as a self-contained HTML file: headline facts, loss curves, samples and timings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import islice
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from siamese_core.contact_sheet import outlined
from siamese_core.files import write_text_atomic

from .html_page import (
    TEXT_COLOUR,
    bullets,
    captioned,
    cards,
    duration,
    inline_svg,
    key_values,
    page,
    picture,
    plot,
    section,
    table,
)

# Readable on white and on near-black. The total loss has the colour of the text.
_TERM_COLOURS = {
    "loss": "text",
    "mask": "#3b82f6",
    "image": "#e08a1e",
    "consistency": "#a566e8",
    "augmentation": "#22a06b",
}
_PLOT_POINTS = 1000  # per curve; more cannot be told apart at the width of the page
_SMOOTHING_SHARE = 1 / 40  # window of the bold curves, as a share of the run


@dataclass(frozen=True)
class Sample:
    """A synthetic image and its mask.

    ``mask``: (H, W) bool, True on the lesion. ``real``: (H, W, 3) uint8, the image that the mask belongs to,
    or None. ``synthetic``: (H, W, 3) uint8. ``adherence``: Dice in [0, 1] of a segmenter's prediction on
    ``synthetic`` against ``mask``, or None if not measured. ``nearest``: (H, W, 3) uint8, the training image
    most similar to ``synthetic``, or None if not searched for.
    """

    stem: str
    mask: NDArray[np.bool_]
    real: NDArray[np.uint8] | None
    synthetic: NDArray[np.uint8]
    prompt: str
    adherence: float | None
    nearest: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Table:
    """Rows of text under ``header``; columns named in ``numeric`` are right-aligned."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """The content of a report; empty parts are left out.

    ``summary``: the headline facts, in order. ``loss_log``: the rows of a run's JSONL log, each with ``step``
    and the terms ``loss``, ``mask``, ``image``, ``consistency`` and ``augmentation``; terms that are missing
    or always 0 are not drawn. ``tables`` are by heading. ``timings``: seconds by stage, in order.
    """

    title: str
    summary: Mapping[str, str | float | int] = field(default_factory=dict)
    loss_log: Sequence[Mapping[str, float]] = ()
    samples: Sequence[Sample] = ()
    tables: Mapping[str, Table] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    notes: Sequence[str] = ()


def write_report(path: Path, report: Report) -> None:
    """Write ``report`` to ``path`` atomically. Raises OSError."""
    write_text_atomic(path, render_report(report))


def render_report(report: Report) -> str:
    """``report`` as one HTML document; all text is escaped, since stems and prompts are untrusted."""
    sections = (
        cards(report.summary),
        *(
            section(heading, table(content.header, content.rows, content.numeric))
            for heading, content in report.tables.items()
        ),
        section("Samples", _contact_sheet(report.samples)),
        section("Mask adherence", _adherence(report.samples)),
        section("Training loss", _losses(report.loss_log)),
        section("Time", _timings(report.timings)),
        section("Settings", key_values(report.settings)),
        section("Notes", bullets(report.notes)),
    )
    return page(report.title, sections, _STYLE)


def _contact_sheet(samples: Sequence[Sample]) -> str:
    if not samples:
        return ""
    names = ["mask", "real", "synthetic", "mask on synthetic"]
    if any(sample.nearest is not None for sample in samples):
        names.append("nearest real")
    header = "".join(f"<span>{name}</span>" for name in names)
    rows = "\n".join(_sample_row(sample, len(names)) for sample in samples)
    return (
        f'<div style="--pictures: {len(names)}">'
        f'<div class="sample header" aria-hidden="true"><span></span>{header}</div>\n{rows}</div>'
    )


def _sample_row(sample: Sample, pictures: int) -> str:
    shown = {
        "mask": np.where(sample.mask, 255, 0).astype(np.uint8),
        "real image": sample.real,
        "synthetic image": sample.synthetic,
        "synthetic image with the mask's outline": outlined(sample.synthetic, sample.mask),
        "nearest real image": sample.nearest,
    }
    cells = "".join(
        picture(pixels, f"{name}, {sample.stem}") for name, pixels in islice(shown.items(), pictures)
    )
    dice = "" if sample.adherence is None else f'<span class="dice">Dice {sample.adherence:.3f}</span>'
    text = f"<b>{escape(sample.stem)}</b>{dice}<span>{escape(sample.prompt)}</span>"
    return f'<div class="sample"><div class="about">{text}</div>{cells}</div>'


def _adherence(samples: Sequence[Sample]) -> str:
    scores = np.array([sample.adherence for sample in samples if sample.adherence is not None])
    if not len(scores):
        return ""
    figure, axes = plot(height=2.6)
    axes.hist(scores, bins=np.linspace(0, 1, 41).tolist(), color=_TERM_COLOURS["mask"])
    axes.axvline(float(scores.mean()), color=_TERM_COLOURS["image"], linewidth=2)
    axes.set(xlim=(0, 1), xlabel="Dice", ylabel="images")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    caption = (
        f"Dice of a segmentation network, trained on real pairs only, on {len(scores)} synthetic "
        f"{'image' if len(scores) == 1 else 'images'} against the masks that were asked for: "
        f"mean {scores.mean():.3f} (the line), median {np.median(scores):.3f}, lowest {scores.min():.3f}."
    )
    return captioned(inline_svg(figure, "adherence", "histogram of mask adherence"), caption)


def _losses(rows: Sequence[Mapping[str, float]]) -> str:
    window = max(1, round(len(rows) * _SMOOTHING_SHARE))
    every = max(1, len(rows) // _PLOT_POINTS)
    steps = np.array([row["step"] for row in rows])
    figure, axes = plot(height=3.8)
    caption = f"Thin: single steps. Bold: means over {window} steps."
    for term, colour in _TERM_COLOURS.items():
        values = np.array([row.get(term, 0.0) for row in rows])
        begun = np.flatnonzero(values > 0)
        if not len(begun):
            continue
        first = int(begun[0])
        if first:
            caption += f" The {term} term begins at step {steps[first]:g}."
        x, y = steps[first:], values[first:]
        # A term is 0 in steps in which no sample takes part. Such points cannot be drawn on a log axis, but
        # count in the mean.
        single = np.where(y > 0, y, np.nan)
        colour = TEXT_COLOUR if colour == "text" else colour
        axes.plot(x[::every], single[::every], color=colour, linewidth=0.6, alpha=0.35)
        axes.plot(x[::every], _smoothed(y, window)[::every], color=colour, linewidth=1.8, label=term)
    if not axes.lines:
        return ""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="step", xlim=(steps[0], max(steps[-1], steps[0] + 1)))
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=5, frameon=False, labelcolor=TEXT_COLOUR,
        borderaxespad=0, handlelength=1.2, columnspacing=1.4,
    )  # fmt: skip
    return captioned(inline_svg(figure, "losses", "loss terms over the training steps"), caption)


def _smoothed(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Centred moving mean of (N,) values, with a shorter window at the ends: (N,), NaN where it is 0."""
    window = min(window, len(values))
    ones = np.ones(window)
    sums = np.convolve(values, ones, mode="same") / np.convolve(np.ones(len(values)), ones, mode="same")
    return np.where(sums > 0, sums, np.nan)


def _timings(timings: Mapping[str, float]) -> str:
    total = sum(timings.values())
    rows = "".join(
        f'<tr><th scope="row">{escape(stage)}</th><td class="number">{duration(seconds)}</td>'
        f'<td class="bar"><i style="width:{100 * seconds / (total or 1):.1f}%"></i></td></tr>'
        for stage, seconds in timings.items()
    )
    if not rows:
        return ""
    sum_row = f'<th scope="row">total</th><td class="number">{duration(total)}</td><td></td>'
    return f'<table>{rows}<tr class="total">{sum_row}</tr></table>'


_STYLE = """
.sample { display: grid; grid-template-columns: 1.2fr repeat(var(--pictures), minmax(0, 1fr)); gap: 0.75rem;
  margin: 0 0 0.75rem; }
.header { color: var(--quiet); font-size: 0.85rem; margin: 0 0 0.3rem; }
.about { display: flex; flex-direction: column; gap: 0.2rem; font-size: 0.9rem; overflow-wrap: anywhere; }
.about span { color: var(--quiet); }
.about .dice { color: var(--accent); font-weight: 600; font-variant-numeric: tabular-nums; }
.sample img { display: block; width: 100%; height: auto; border-radius: 4px; }
@media (max-width: 640px) {
  .sample { grid-template-columns: repeat(var(--pictures), minmax(0, 1fr)); gap: 0.4rem;
    margin-bottom: 1.25rem; }
  .sample .about { grid-column: 1 / -1; }
  .header > :first-child { display: none; }
  .header span { font-size: 0.72rem; }
}
"""
