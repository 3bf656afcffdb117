"""The report that compares several methods: a table, a shared projection, and the same masks for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siamese_core.files import write_text_atomic
from siamese_core.masks.resizing import mask_to_uint8

from ..rating.study_results import Rated
from ..reports.html_page import (
    bullets,
    captioned,
    cards,
    duration,
    inline_svg,
    key_values,
    page,
    section,
    table,
)
from ..statistics.crossed import Estimate as Opinion
from .cases import CasePictures, spread
from .measuring import Measured
from .metrics.names import meaning_of, metric_title
from .metrics.projection import Projection
from .report import (
    STYLE,
    Gallery,
    Strip,
    gallery_figure,
    gallery_strips,
    projection_figure,
    shown,
    shown_interval,
    write_figures,
)

_MASKS = 6
_MOST_DIFFERENT = 0.02  # share of pixels that may differ when the same mask was written at two sizes
_ARROWS = {"lower": " ↓", "higher": " ↑"}


@dataclass(frozen=True)
class Comparison:
    """The content of a report on several methods.

    ``methods`` are by name, in the order to show them. ``ratings`` are the results of a rating study by
    source ("real" for the real images), empty without a study. ``timings`` are seconds by stage.
    """

    real_images: int
    methods: Mapping[str, Measured]
    ratings: Mapping[str, Rated]
    gallery: Gallery
    projected_by: str
    timings: Mapping[str, float]
    settings: Mapping[str, object]
    notes: Sequence[str]


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write report.html and its figures as PNG into ``folder``. Raises OSError."""
    figures = {}
    if comparison.gallery.strips:
        figures[comparison.gallery.file] = gallery_figure(comparison.gallery)
    if panels := _panels(comparison):
        figures["projection"] = projection_figure(panels, share_plane=True)
    write_figures(folder, figures)
    write_text_atomic(folder / "report.html", render_comparison(comparison))


def render_comparison(comparison: Comparison) -> str:
    """``comparison`` as one HTML document; all text is escaped."""
    left_out = {
        f"{name}: {metric_title(metric)}": reason
        for name, measured in comparison.methods.items()
        for metric, reason in measured.results.left_out.items()
    }
    sizes = {f"images, {name}": len(one.images) for name, one in comparison.methods.items()}
    sections = [
        cards({"real images": comparison.real_images, **sizes}),
        section("Methods side by side", _methods(comparison)),
        section("Ratings", _ratings(comparison.ratings)),
        section("How to read the metrics", _meanings(comparison)),
        section("Real and synthetic images in the plane", _plane(comparison)),
        section(comparison.gallery.heading, gallery_strips(comparison.gallery)),
        section("Left out", key_values(left_out)),
        section("Time", key_values({name: duration(value) for name, value in comparison.timings.items()})),
        section("Settings", key_values(comparison.settings)),
        section("Notes", bullets(comparison.notes)),
    ]
    return page("Methods against real images", sections, STYLE + _WIDE_STYLE)


def methods_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table: a row per method, a column per metric, values above 95 % intervals."""
    names = _metric_names(comparison)
    rated = {name: comparison.ratings[name] for name in comparison.methods if name in comparison.ratings}
    header = [
        "method",
        *(f"{metric_title(name)}{_ARROWS.get(meaning_of(name).better, '')}" for name in names),
    ]
    rows = []
    for method, measured in comparison.methods.items():
        found = [measured.results.metrics.get(name) for name in names]
        cells = [f"{shown(one.value)}\n{shown_interval(one)}".rstrip() if one else "" for one in found]
        if rated:
            cells.append(_opinion(rated[method].mean_opinion_score) if method in rated else "")
        rows.append([method, *cells])
    return [*header, "raters' mean, 1 to 5 ↑"] if rated else header, rows


def same_masks(methods: Mapping[str, tuple[Measured, CasePictures]], real: Sequence[str]) -> Gallery:
    """A few masks, evenly spaced over those that all ``methods`` have, with each method's image.

    ``real`` are the stems of the real images, which are shown, too, where they are known.
    """
    first_of = [_first_images(measured, real) for measured, _ in methods.values()]
    common = [key for key in first_of[0] if all(key in others for others in first_of)]
    strips = []
    for place in spread(len(common), _MASKS):
        key = common[place]
        shown_ones = [one[key] for one in first_of]
        strip = _same_mask(methods, key, shown_ones)
        if strip is not None:
            strips.append(strip)
    text = "Taken at equal steps through the masks that all methods were given, not chosen."
    return Gallery("The same masks under each method", text, "same_masks", strips)


def _same_mask(
    methods: Mapping[str, tuple[Measured, CasePictures]], key: str, places: Sequence[int]
) -> Strip | None:
    """Mask, real image and image number ``places[k]`` of method k; None if the methods' masks differ."""
    measured, pictures = next(iter(methods.values()))
    masks = [own.mask(place) for (_, own), place in zip(methods.values(), places, strict=True)]
    mask = masks[0]
    if mask is None or any(other is None or np.mean(other != mask) > _MOST_DIFFERENT for other in masks):
        return None
    tiles = [("mask", mask_to_uint8(mask))]
    if (original := measured.matches.get(places[0])) is not None:
        tiles.append(("real", pictures.real(original)))
    elif any(one.matches for one, _ in methods.values()):
        tiles.append(("real", np.full((*mask.shape, 3), 255, np.uint8)))  # a blank, to keep the columns
    tiles += [
        (name, own.synthetic(place)) for (name, (_, own)), place in zip(methods.items(), places, strict=True)
    ]
    return Strip(key, "", tuple(tiles))


def _first_images(measured: Measured, real: Sequence[str]) -> dict[str, int]:
    """The first image of each mask, by the stem of the real image with that mask or else its own stem."""
    if measured.images.pairs is None:
        return {}
    matches = measured.matches
    found: dict[str, int] = {}
    for place, pair in enumerate(measured.images.pairs):
        found.setdefault(real[matches[place]] if place in matches else pair.stem, place)
    return found


def _metric_names(comparison: Comparison) -> list[str]:
    """All metrics that at least one method has, in order."""
    return list(dict.fromkeys(name for one in comparison.methods.values() for name in one.results.metrics))


def _methods(comparison: Comparison) -> str:
    header, rows = methods_table(comparison)
    return f'<div class="methods">{table(header, rows, numeric=header[1:])}</div>'


def _meanings(comparison: Comparison) -> str:
    kinds = dict.fromkeys(name.partition("[")[0] for name in _metric_names(comparison))
    meanings = [meaning_of(kind) for kind in kinds]
    rows = [(meaning.title, meaning.better, meaning.text) for meaning in meanings]
    return table(("metric", "better", "meaning"), rows)


def _panels(comparison: Comparison) -> list[Projection]:
    return [panel for one in comparison.methods.values() for panel in one.projections]


def _plane(comparison: Comparison) -> str:
    panels = _panels(comparison)
    if not panels:
        return ""
    figure = projection_figure(panels, share_plane=True)
    text = (
        f"One t-SNE of all images by their features [{comparison.projected_by}]; the real ones have the same "
        "places in every panel. Synthetic points apart from the real ones show a gap of style; real points "
        "without synthetic ones near by are not covered."
    )
    return captioned(inline_svg(figure, "projection", "real and synthetic images of each method"), text)


def _ratings(ratings: Mapping[str, Rated]) -> str:
    if not ratings:
        return ""
    raters = list(dict.fromkeys(rater for rated in ratings.values() for rater in rated.raters))
    header = ["source", "images", "mean (95 % interval)", "taken for real, %", *raters]
    rows = [
        [
            source,
            str(rated.images),
            _opinion(rated.mean_opinion_score),
            f"{100 * rated.taken_for_real.value:.0f}",
            *(f"{rated.raters[rater]:.2f}" if rater in rated.raters else "" for rater in raters),
        ]
        for source, rated in ratings.items()
    ]
    text = (
        "1 = certainly artificial, 5 = certainly real. The intervals are for other raters and other images; "
        "the last columns are the means of each rater."
    )
    return f'<div class="methods">{captioned(table(header, rows, numeric=header[1:]), text)}</div>'


def _opinion(estimate: Opinion) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f}\n{estimate.low:.2f} … {estimate.high:.2f}"


_WIDE_STYLE = """
.methods { overflow-x: auto; }
.methods td { white-space: pre-line; }
.methods td.number { white-space: pre; }
.methods table { font-size: 0.82rem; }
.methods th, .methods td { padding-right: 0.7rem; }
.methods th { vertical-align: bottom; min-width: 5.2rem; white-space: normal; }
.methods td:first-child { position: sticky; left: 0; background: var(--page); color: var(--text);
  font-size: inherit; font-weight: 600; min-width: 7rem; }
.methods td:last-child { color: var(--text); font-size: inherit; }
.strips { grid-template-columns: minmax(0, 1100px); }
"""
