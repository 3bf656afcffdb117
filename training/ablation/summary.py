"""An ablation's results as Markdown, JSON and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.metrics.names import meaning_of, metric_title
from ..reports.html_page import bullets, captioned, key_values, page, picture, section, table
from ..segmentation.summary import READING, heading, score_table
from .updates import Comparison

_NOTES = (
    "All variants are trained on the same pairs from the same base, for as many steps, and generate the same "
    "masks from the same noise.",
    "Metrics: value and 95 % bootstrap interval over the images, against the training images. One training "
    "run a variant: what another seed of the generative model would change is not in the intervals.",
)


@dataclass(frozen=True)
class Summary:
    """The results of an ablation.

    ``evaluations``: evaluation.json of each generated variant, by name; ``segmentation``: the results of
    training.segment; ``updates``: comparisons of all ``trained`` variants, in their order; ``sheet``:
    (H, W, 3) uint8, one row per mask, or None when nothing was generated.
    """

    title: str
    note: str
    variants: Sequence[str]
    evaluations: Mapping[str, Mapping[str, Any]]
    segmentation: Sequence[Mapping[str, Any]]
    trained: Sequence[str]
    updates: Sequence[Comparison]
    sheet: NDArray[np.uint8] | None
    settings: Mapping[str, object]


def as_json(summary: Summary) -> dict[str, Any]:
    """Everything except the sheet, with metrics by variant."""
    return {
        "title": summary.title,
        "note": summary.note,
        "metrics": {name: summary.evaluations[name]["metrics"] for name in summary.variants},
        "segmentation": summary.segmentation,
        "updates": {"variants": summary.trained, "groups": [asdict(one) for one in summary.updates]},
        "settings": summary.settings,
    }


def as_markdown(summary: Summary) -> str:
    """All tables as Markdown."""
    parts = [f"# {summary.title}", *([summary.note] if summary.note else [])]
    for title, (header, rows) in _tables(summary).items():
        lines = [header, ["---"] * len(header), *rows]
        parts += [f"## {title}", "\n".join("| " + " | ".join(line) + " |" for line in lines)]
    return "\n\n".join(parts) + "\n"


def as_html(summary: Summary) -> str:
    """The page ``ablation.html``."""
    notes = bullets([*([summary.note] if summary.note else []), *_NOTES, *READING])
    sections = [section("How to read this", notes)]
    for title, (header, rows) in _tables(summary).items():
        sections.append(section(title, table(header, rows, header[1:])))
    if summary.sheet is not None:
        caption = f"From the left: mask, real image, {', '.join(summary.variants)}, with the mask's outline."
        sections.append(section("The same masks", captioned(picture(summary.sheet, caption), caption)))
    return page(summary.title, [*sections, section("Settings", key_values(summary.settings))])


Table = tuple[list[str], list[list[str]]]


def _tables(summary: Summary) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    if summary.variants:
        tables["Metrics"] = _metrics(summary)
    for group in summary.segmentation:
        for measure, name in (("dice", "mDice"), ("iou", "mIoU")):
            tables[f"Segmentation: {heading(group)}, {name}"] = score_table(group, measure)
    for comparison in summary.updates:
        tables[f"Parameter updates: {comparison.group}"] = _updates(summary.trained, comparison)
    return tables


def _metrics(summary: Summary) -> Table:
    """A table with one row per metric and one column per variant."""
    found = {name: summary.evaluations[name]["metrics"] for name in summary.variants}
    names = list(dict.fromkeys(metric for metrics in found.values() for metric in metrics))
    rows = [
        [
            metric_title(name),
            meaning_of(name).better,
            *(_estimate(found[variant].get(name)) for variant in summary.variants),
        ]
        for name in names
    ]
    return ["metric", "better", *summary.variants], rows


def _estimate(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return ""
    value = f"{estimate['value']:.4g}"
    return value if estimate["low"] is None else f"{value} [{estimate['low']:.4g}, {estimate['high']:.4g}]"


def _updates(variants: Sequence[str], comparison: Comparison) -> Table:
    """A table with one row per variant: its update's size, and its cosines with all variants' updates."""
    rows = []
    for name, size, relative, cosines in zip(
        variants, comparison.sizes, comparison.relative, comparison.cosines, strict=True
    ):
        shown = ["" if cosine is None else f"{cosine:.3f}" for cosine in cosines]
        rows.append([name, f"{size:.4g}", "" if relative is None else f"{relative:.2%}", *shown])
    return ["variant", "size", "of the weights", *(f"cosine with {name}" for name in variants)], rows
