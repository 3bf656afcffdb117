"""The table of benchmarks.low_data: scores over draws, and differences with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.reports.html_page import bullets, page, section, table
from training.segmentation.scores import Comparison, compare, spread
from training.statistics.crossed import gathered

READING = (
    "mDice: mean over the test images, then over draws of the labels, ± the deviation between draws.",
    "Differences are taken draw by draw and image by image; in brackets the 95 % interval over draws and "
    "images, as crossed samples (an image's pieces are one sample). With one draw it is of that "
    "draw only.",
)
ADHERENCE = "Adherence: mean Dice of each mask and what a network trained on the labels finds in its image."


@dataclass(frozen=True)
class DrawScores:
    """The scores of one draw: Dice of every test pair by variant (baseline first), and metrics by model.

    ``images`` names the image that each test pair is, or is a piece of.
    """

    pairs: int
    number: int
    images: Sequence[str]
    dice: Mapping[str, Sequence[float]]
    metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Row:
    """The scores of a variant for a number of labels on test ``images``, cut into ``pieces`` altogether.

    ``vs_real`` is None for the baseline, ``vs_previous`` for the first two variants.
    """

    pairs: int
    variant: str
    draws: int
    images: int
    pieces: int
    mean: float
    sd: float | None
    vs_real: Comparison | None
    vs_previous: Comparison | None
    adherence: float | None

    def plain(self) -> dict[str, Any]:
        """The row in JSON types."""
        return asdict(self)


def table_of(draws: Sequence[DrawScores]) -> list[Row]:
    """One row for each number of labels and each variant."""
    rows = []
    for pairs in sorted({draw.pairs for draw in draws}):
        of_size = [draw for draw in draws if draw.pairs == pairs]
        names = list(of_size[0].dice)
        images = of_size[0].images
        of_pieces = {name: np.array([draw.dice[name] for draw in of_size]) for name in names}
        scores = {name: gathered(found, images) for name, found in of_pieces.items()}
        for place, name in enumerate(names):
            found = spread(of_pieces[name].mean(1).tolist())
            rows.append(
                Row(
                    pairs=pairs,
                    variant=name,
                    draws=len(of_size),
                    images=scores[name].shape[1],
                    pieces=len(images),
                    mean=found.mean,
                    sd=found.sd,
                    vs_real=compare(scores[name], scores[names[0]]) if place else None,
                    vs_previous=compare(scores[name], scores[names[place - 1]]) if place > 1 else None,
                    adherence=_adherence(of_size, name.removeprefix("real + ")),
                )
            )
    return rows


def as_markdown(title: str, rows: Sequence[Row]) -> str:
    """The table, and notes on how to read it, as Markdown."""
    header, cells = _cells(rows)
    lines = [header, ["---"] * len(header), *cells]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"# {title}\n\n{text}\n\n" + "\n".join(f"- {note}" for note in _notes(rows)) + "\n"


def as_html(title: str, rows: Sequence[Row]) -> str:
    """The page ``study.html``."""
    header, cells = _cells(rows)
    scores = section("Scores", table(header, cells, header[2:]))
    return page(title, [section("How to read this", bullets(_notes(rows))), scores])


def _notes(rows: Sequence[Row]) -> tuple[str, ...]:
    return (*READING, ADHERENCE) if _has_adherence(rows) else READING


def _has_adherence(rows: Sequence[Row]) -> bool:
    return any(row.adherence is not None for row in rows)


def _cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    header = [
        "labels",
        "trained on",
        "draws x images",
        "mDice",
        "minus real",
        "minus the row above",
    ]
    cells = [
        [
            str(row.pairs),
            row.variant,
            f"{row.draws} x {row.images}" + (f" ({row.pieces} pieces)" if row.pieces > row.images else ""),
            f"{row.mean:.4f}" + ("" if row.sd is None else f" ± {row.sd:.4f}"),
            _compared(row.vs_real),
            _compared(row.vs_previous),
        ]
        for row in rows
    ]
    if _has_adherence(rows):
        header.append("adherence")
        for line, row in zip(cells, rows, strict=True):
            line.append("" if row.adherence is None else f"{row.adherence:.3f}")
    return header, cells


def _compared(found: Comparison | None) -> str:
    if found is None:
        return ""
    interval = "" if found.low is None else f" [{found.low:+.4f}, {found.high:+.4f}]"
    return f"{found.difference:+.4f}{interval}"


def _adherence(draws: Sequence[DrawScores], model: str) -> float | None:
    values = [
        float(estimate["value"])
        for draw in draws
        for name, estimate in draw.metrics.get(model, {}).items()
        if name == "adherence"
    ]
    return float(np.mean(values)) if values else None
