"""The report of an evaluation: one HTML file with tables, figures and cases, and the figures as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from siamese_core.contact_sheet import grid
from siamese_core.files import write_bytes_atomic, write_text_atomic

from ..reports.html_page import (
    TEXT_COLOUR,
    bullets,
    captioned,
    cards,
    duration,
    inline_svg,
    key_values,
    page,
    picture,
    section,
    style_axes,
    table,
)
from ..statistics.intervals import Estimate
from .metrics.memorisation import Neighbours
from .metrics.names import meaning_of, metric_title
from .metrics.projection import Projection

_REAL, _SYNTHETIC = "#3b82f6", "#e08a1e"  # readable on white and on near-black
_DPI = 130
_TILE_DPI = 110  # pixels of a tile per inch
_GAP = 6  # pixels between tiles
_PANELS_IN_A_ROW = 3


@dataclass(frozen=True)
class Strip:
    """Pictures of one size side by side, as (label, (H, W, 3) or (H, W) uint8), with a name and details."""

    name: str
    detail: str
    pictures: tuple[tuple[str, NDArray[np.uint8]], ...]


@dataclass(frozen=True)
class Gallery:
    """Strips with the same labels under a heading; ``file`` is the stem of the PNG."""

    heading: str
    text: str
    file: str
    strips: Sequence[Strip]


@dataclass(frozen=True)
class EvaluationReport:
    """The content of a report; empty parts are left out. ``timings`` are seconds by stage."""

    title: str
    summary: Mapping[str, str | float | int]
    metrics: Mapping[str, Estimate]
    left_out: Mapping[str, str] = field(default_factory=dict)
    projections: Sequence[Projection] = ()
    projected_by: str = ""
    neighbours: Mapping[str, Neighbours] = field(default_factory=dict)
    galleries: Sequence[Gallery] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    notes: Sequence[str] = ()


def write_evaluation(folder: Path, report: EvaluationReport) -> None:
    """Write report.html and its figures as PNG into ``folder``. Raises OSError."""
    figures = {gallery.file: gallery_figure(gallery) for gallery in report.galleries if gallery.strips}
    if report.projections:
        figures["projection"] = projection_figure(report.projections)
    if report.neighbours:
        figures["nearest_distances"] = distance_figure(report.neighbours)
    write_figures(folder, figures)
    write_text_atomic(folder / "report.html", render_evaluation(report))


def write_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Write each of the ``figures`` to ``folder/<name>.png``. Raises OSError."""
    for name, figure in figures.items():
        write_bytes_atomic(folder / f"{name}.png", _png(figure))


def render_evaluation(report: EvaluationReport) -> str:
    """``report`` as one HTML document; all text is escaped."""
    sections = [
        cards(report.summary),
        section("Metrics", _metric_table(report.metrics)),
        section("Left out", key_values(report.left_out)),
        section("Real and synthetic images in the plane", _projections(report)),
        section("Nearest real images", _nearest(report.neighbours)),
        *(section(gallery.heading, gallery_strips(gallery)) for gallery in report.galleries),
        section("Time", key_values({name: duration(value) for name, value in report.timings.items()})),
        section("Settings", key_values(report.settings)),
        section("Notes", bullets(report.notes)),
    ]
    return page(report.title, sections, STYLE)


def projection_figure(projections: Sequence[Projection], *, share_plane: bool = False) -> Figure:
    """Scatter plots of real and synthetic images in two colours, one per projection.

    With ``share_plane`` they share axes and are arranged in rows of three.
    """
    columns = min(len(projections), _PANELS_IN_A_ROW) if share_plane else len(projections)
    rows = -(-len(projections) // columns)
    figure = Figure(figsize=(4.6 * columns, 4.6 * rows), layout="constrained")
    grid_of_axes = figure.subplots(rows, columns, squeeze=False, sharex=share_plane, sharey=share_plane)
    panels = grid_of_axes.ravel()
    for axes in panels[len(projections) :]:
        axes.set_axis_off()
    for axes, projection in zip(panels, projections, strict=False):
        style_axes(axes)
        axes.set_title(projection.name, fontsize=11)
        for points, colour, label in (
            (projection.real, _REAL, "real"),
            (projection.synthetic, _SYNTHETIC, "synthetic"),
        ):
            size = float(np.clip(6000 / max(1, len(points)), 6, 30))
            axes.scatter(*points.T, s=size, c=colour, alpha=0.55, linewidths=0, label=label)
        axes.set(xticks=[], yticks=[])
    panels[0].legend(frameon=False, labelcolor=TEXT_COLOUR, loc="best", markerscale=1.5)
    return figure


def distance_figure(neighbours: Mapping[str, Neighbours]) -> Figure:
    """Histograms of nearest distances per feature space: synthetic to real, and real to other real."""
    figure = Figure(figsize=(4.6 * len(neighbours), 2.9), layout="constrained")
    panels = figure.subplots(1, len(neighbours), squeeze=False)[0]
    for axes, (name, found) in zip(panels, neighbours.items(), strict=True):
        style_axes(axes)
        top = float(np.quantile(np.concatenate([found.nearest, found.reference]), 0.995)) or 1.0
        bins = np.linspace(0, top, 41).tolist()
        for values, colour, label in (
            (found.reference, _REAL, "real to another real"),
            (found.nearest, _SYNTHETIC, "synthetic to real"),
        ):
            shares = np.full(len(values), 1 / len(values))
            axes.hist(np.minimum(values, top), bins, weights=shares, color=colour, alpha=0.55, label=label)
        axes.set(xlabel=f"distance to the nearest real image [{name}]", xlim=(0, top))
    panels[0].set_ylabel("share of images")
    panels[0].legend(frameon=False, labelcolor=TEXT_COLOUR)
    return figure


def gallery_figure(gallery: Gallery) -> Figure:
    """The strips of a gallery below each other, with labels above and names to the left."""
    sheet = grid([[pixels for _, pixels in strip.pictures] for strip in gallery.strips], _GAP)
    step = gallery.strips[0].pictures[0][1].shape[0] + _GAP
    texts = [f"{_shortened(strip.name)}\n{strip.detail}".rstrip() for strip in gallery.strips]
    names = 9.0 * max(len(line) for text in texts for line in text.split("\n")) + 20  # pixels of the sheet
    labels = 50
    height, width = sheet.shape[0] + labels, sheet.shape[1] + names
    figure = Figure(figsize=(width / _TILE_DPI, height / _TILE_DPI))
    place = (names / width, 0, sheet.shape[1] / width, sheet.shape[0] / height)
    axes = figure.add_axes(place, xticks=[], yticks=[], frameon=False)
    axes.imshow(sheet)
    for row, text in enumerate(texts):
        axes.text(-12, (row + 0.5) * step, text, ha="right", va="center", fontsize=9)
    for column, (label, _) in enumerate(gallery.strips[0].pictures):
        middle = (column + 0.5) * step
        axes.text(middle, -6, label.replace(" [", "\n["), ha="center", va="bottom", fontsize=9)
    return figure


def _metric_table(metrics: Mapping[str, Estimate]) -> str:
    header = ("metric", "value", "95 % interval", "real", "synthetic", "better", "meaning")
    rows = []
    for name, estimate in metrics.items():
        meaning = meaning_of(name)
        note = f" ({estimate.note})" if estimate.note else ""
        rows.append(
            (
                metric_title(name),
                shown(estimate.value),
                shown_interval(estimate),
                f"{estimate.real:,}" if estimate.real else "",
                f"{estimate.synthetic:,}" if estimate.synthetic else "",
                meaning.better,
                meaning.text + note,
            )
        )
    return table(header, rows, numeric=("value", "95 % interval", "real", "synthetic"))


def _projections(report: EvaluationReport) -> str:
    if not report.projections:
        return ""
    figure = inline_svg(projection_figure(report.projections), "projection", "real and synthetic images")
    text = (
        f"Each point is an image, placed by its features [{report.projected_by}]. Synthetic points apart "
        "from the real ones show a gap of style; real points without synthetic ones near by are not covered."
    )
    return captioned(figure, text)


def _nearest(neighbours: Mapping[str, Neighbours]) -> str:
    if not neighbours:
        return ""
    figure = inline_svg(distance_figure(neighbours), "nearest", "histograms of nearest distances")
    text = (
        "A synthetic set that copies its training images piles up near 0, left of what real images have "
        "among themselves. The last bar holds all that is farther."
    )
    return captioned(figure, text)


def gallery_strips(gallery: Gallery) -> str:
    """The strips of a gallery as HTML for a page with STYLE; empty without strips."""
    strips = "".join(_strip(strip) for strip in gallery.strips)
    return f'<p class="lead">{escape(gallery.text)}</p><div class="strips">{strips}</div>' if strips else ""


def _strip(strip: Strip) -> str:
    cells = "".join(
        f"<div>{picture(pixels, f'{label}, {strip.name}')}<span>{escape(label)}</span></div>"
        for label, pixels in strip.pictures
    )
    about = f"<figcaption><b>{escape(strip.name)}</b> {escape(strip.detail)}</figcaption>"
    return f'<figure class="strip"><div class="pictures">{cells}</div>{about}</figure>'


def shown(value: float) -> str:
    """``value`` with three decimals; one above 100, and two significant digits below 0.1."""
    if abs(value) >= 100:
        return f"{value:.1f}"
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def shown_interval(estimate: Estimate) -> str:
    """The bounds of the interval as text; empty without an interval."""
    return "" if estimate.low is None else f"{shown(estimate.low)} … {shown(estimate.high or 0.0)}"


def _shortened(name: str, most: int = 22) -> str:
    return name if len(name) <= most else f"{name[: most - 8]}…{name[-7:]}"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without matplotlib's version in the metadata, equal figures give equal bytes.
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


STYLE = """
.lead { color: var(--quiet); margin: 0 0 0.9rem; max-width: 46rem; }
.strips { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr));
  gap: 1.25rem; }
.strip .pictures { display: flex; gap: 0.4rem; }
.strip .pictures div { flex: 1 1 0; min-width: 0; }
.strip .pictures span { display: block; color: var(--quiet); font-size: 0.75rem; text-align: center; }
.strip img { display: block; width: 100%; height: auto; border-radius: 4px; }
.strip figcaption { margin-top: 0.2rem; overflow-wrap: anywhere; }
.wide th, .wide td { vertical-align: top; overflow-wrap: normal; }
.wide td:last-child { color: var(--quiet); font-size: 0.87rem; }
@media (max-width: 760px) { .wide { display: block; overflow-x: auto; } }
"""
