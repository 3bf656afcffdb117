"""A run's results as one HTML file: headline facts, loss curves, samples beside their masks, timings.

The file stands alone: pictures are data URLs, plots are inline SVG, nothing is loaded and nothing runs. It
follows the reader's light or dark colour scheme.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from siamese_core.contact_sheet import outlined
from siamese_core.files import write_text_atomic

# Readable on white and on near-black alike. The total takes the colour of the text.
_TERM_COLOURS = {
    "loss": "text",
    "mask": "#3b82f6",
    "image": "#e08a1e",
    "consistency": "#a566e8",
    "augmentation": "#22a06b",
}
_PLOT_POINTS = 1000  # per curve; more cannot be told apart at the width of the page
_SMOOTHING_SHARE = 1 / 40  # of the run: the window of the bold curves
_PIXELATED_BELOW = 256  # px wide; smaller images are enlarged as squares, not blurred

# The figures are drawn in this colour, which then becomes CSS's currentColor.
_TEXT_PLACEHOLDER = "#010203"


@dataclass(frozen=True)
class Sample:
    """One synthetic image and what it was made from.

    mask: (H, W), true on the lesion that was asked for. real: (H, W, 3) RGB, the image that the mask was
    drawn on, or None. synthetic: (H, W, 3) RGB. adherence: Dice in [0, 1] of the segmentation network's
    prediction on ``synthetic`` against ``mask``, or None when it was not measured.
    """

    stem: str
    mask: NDArray[np.bool_]
    real: NDArray[np.uint8] | None
    synthetic: NDArray[np.uint8]
    prompt: str
    adherence: float | None


@dataclass(frozen=True)
class Report:
    """What a report shows; a part that is empty is left out.

    summary: the headline facts, in order. loss_log: the rows of a run's JSONL log, each with ``step`` and
    the terms ``loss``, ``mask``, ``image``, ``consistency`` and ``augmentation``; a term that is missing or
    0 throughout is not drawn. timings: seconds by stage, in order.
    """

    title: str
    summary: Mapping[str, str | float | int] = field(default_factory=dict)
    loss_log: Sequence[Mapping[str, float]] = ()
    samples: Sequence[Sample] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    notes: Sequence[str] = ()


def write_report(path: Path, report: Report) -> None:
    """Write ``report`` to ``path``, whole or not at all. Raises OSError when it cannot be written."""
    write_text_atomic(path, render_report(report))


def render_report(report: Report) -> str:
    """``report`` as one HTML document. All its text is escaped: stems and prompts are the user's data."""
    sections = (
        _cards(report.summary),
        _section("Samples", _contact_sheet(report.samples)),
        _section("Mask adherence", _adherence(report.samples)),
        _section("Training loss", _losses(report.loss_log)),
        _section("Time", _timings(report.timings)),
        _section("Settings", _settings(report.settings)),
        _section("Notes", _notes(report.notes)),
    )
    title = escape(report.title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        f"{''.join(sections)}</main>\n</body>\n</html>\n"
    )


def _section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n{content}\n</section>\n" if content else ""


def _cards(summary: Mapping[str, str | float | int]) -> str:
    cards = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(_number(value))}</dd></div>"
        for name, value in summary.items()
    )
    return f'<dl class="cards">{cards}</dl>\n' if cards else ""


def _contact_sheet(samples: Sequence[Sample]) -> str:
    if not samples:
        return ""
    header = "".join(f"<span>{name}</span>" for name in ("mask", "real", "synthetic", "mask on synthetic"))
    rows = "\n".join(_sample_row(sample) for sample in samples)
    return f'<div class="sample header" aria-hidden="true"><span></span>{header}</div>\n{rows}'


def _sample_row(sample: Sample) -> str:
    pictures = {
        "mask": np.where(sample.mask, 255, 0).astype(np.uint8),
        "real image": sample.real,
        "synthetic image": sample.synthetic,
        "synthetic image with the mask's outline": outlined(sample.synthetic, sample.mask),
    }
    cells = "".join(_picture(pixels, f"{name}, {sample.stem}") for name, pixels in pictures.items())
    dice = "" if sample.adherence is None else f'<span class="dice">Dice {sample.adherence:.3f}</span>'
    text = f"<b>{escape(sample.stem)}</b>{dice}<span>{escape(sample.prompt)}</span>"
    return f'<div class="sample"><div class="about">{text}</div>{cells}</div>'


def _picture(pixels: NDArray[np.uint8] | None, description: str) -> str:
    if pixels is None:
        return '<span class="missing">none</span>'
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    pixelated = ' class="pixelated"' if pixels.shape[1] < _PIXELATED_BELOW else ""
    return f'<img{pixelated} alt="{escape(description)}" src="data:image/png;base64,{data}">'


def _adherence(samples: Sequence[Sample]) -> str:
    scores = np.array([sample.adherence for sample in samples if sample.adherence is not None])
    if not len(scores):
        return ""
    figure, axes = _plot(height=2.6)
    axes.hist(scores, bins=np.linspace(0, 1, 41).tolist(), color=_TERM_COLOURS["mask"])
    axes.axvline(float(scores.mean()), color=_TERM_COLOURS["image"], linewidth=2)
    axes.set(xlim=(0, 1), xlabel="Dice", ylabel="images")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    caption = (
        f"Dice of a segmentation network, trained on real pairs only, on {len(scores)} synthetic "
        f"{'image' if len(scores) == 1 else 'images'} against the masks that were asked for: "
        f"mean {scores.mean():.3f} (the line), median {np.median(scores):.3f}, lowest {scores.min():.3f}."
    )
    return _captioned(_inline_svg(figure, "adherence", "histogram of mask adherence"), caption)


def _losses(rows: Sequence[Mapping[str, float]]) -> str:
    window = max(1, round(len(rows) * _SMOOTHING_SHARE))
    every = max(1, len(rows) // _PLOT_POINTS)
    steps = np.array([row["step"] for row in rows])
    figure, axes = _plot(height=3.8)
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
        # A step none of whose samples takes part in a term has a 0 there: absent from the log axis, but
        # not from the mean.
        single = np.where(y > 0, y, np.nan)
        colour = _TEXT_PLACEHOLDER if colour == "text" else colour
        axes.plot(x[::every], single[::every], color=colour, linewidth=0.6, alpha=0.35)
        axes.plot(x[::every], _smoothed(y, window)[::every], color=colour, linewidth=1.8, label=term)
    if not axes.lines:
        return ""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="step", xlim=(steps[0], max(steps[-1], steps[0] + 1)))
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=5, frameon=False, labelcolor=_TEXT_PLACEHOLDER,
        borderaxespad=0, handlelength=1.2, columnspacing=1.4,
    )  # fmt: skip
    return _captioned(_inline_svg(figure, "losses", "loss terms over the training steps"), caption)


def _smoothed(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Centred moving mean of (N,) values, over fewer of them at the ends; (N,), NaN where it is 0."""
    window = min(window, len(values))
    ones = np.ones(window)
    sums = np.convolve(values, ones, mode="same") / np.convolve(np.ones(len(values)), ones, mode="same")
    return np.where(sums > 0, sums, np.nan)


def _timings(timings: Mapping[str, float]) -> str:
    total = sum(timings.values())
    rows = "".join(
        f'<tr><th scope="row">{escape(stage)}</th><td class="number">{_duration(seconds)}</td>'
        f'<td class="bar"><i style="width:{100 * seconds / (total or 1):.1f}%"></i></td></tr>'
        for stage, seconds in timings.items()
    )
    if not rows:
        return ""
    sum_row = f'<th scope="row">total</th><td class="number">{_duration(total)}</td><td></td>'
    return f'<table>{rows}<tr class="total">{sum_row}</tr></table>'


def _settings(settings: Mapping[str, object]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
        for name, value in settings.items()
    )
    return f"<table>{rows}</table>" if rows else ""


def _notes(notes: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""


def _number(value: str | float | int) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


def _duration(seconds: float) -> str:
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _captioned(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _plot(height: float) -> tuple[Figure, Axes]:
    """An empty figure, 7 by ``height`` inches, in the colour of the page's text."""
    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_TEXT_PLACEHOLDER)
    axes.tick_params(which="both", colors=_TEXT_PLACEHOLDER)
    axes.xaxis.label.set_color(_TEXT_PLACEHOLDER)
    axes.yaxis.label.set_color(_TEXT_PLACEHOLDER)
    axes.grid(color=_TEXT_PLACEHOLDER, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _inline_svg(figure: Figure, name: str, description: str) -> str:
    """``figure`` as an <svg> element of an HTML page; ``name`` keeps its ids apart from other figures'."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # A fixed salt gives equal reports equal bytes; text stays text, in the page's own typeface.
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    # HTML knows the element and its attributes without the prolog and namespaces of a file.
    drawing = buffer.getvalue().partition("<svg")[2].partition(">")[2]
    width, height = figure.get_size_inches() * 72
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(description)}">'
        + drawing.replace(_TEXT_PLACEHOLDER, "currentColor")
    )


_STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --card: #f4f5f7; --text: #1d2229; --quiet: #5c6673; --line: #d9dde3; --accent: #3b82f6;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1e2329; --text: #e4e7eb; --quiet: #98a2af; --line: #333a43; --accent: #6ba2ff;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.75rem; padding-bottom: 0.3rem;
  border-bottom: 1px solid var(--line); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 0.75rem;
  margin: 0; }
.cards div { background: var(--card); border-radius: 8px; padding: 0.75rem 1rem; overflow-wrap: anywhere; }
.cards dt { color: var(--quiet); font-size: 0.85rem; }
.cards dd { margin: 0.1rem 0 0; font-size: 1.3rem; font-weight: 600; line-height: 1.25; }
.sample { display: grid; grid-template-columns: 1.2fr repeat(4, minmax(0, 1fr)); gap: 0.75rem;
  margin: 0 0 0.75rem; }
.header { color: var(--quiet); font-size: 0.85rem; margin: 0 0 0.3rem; }
.about { display: flex; flex-direction: column; gap: 0.2rem; font-size: 0.9rem; overflow-wrap: anywhere; }
.about span { color: var(--quiet); }
.about .dice { color: var(--accent); font-weight: 600; font-variant-numeric: tabular-nums; }
.sample img { display: block; width: 100%; height: auto; border-radius: 4px; }
.pixelated { image-rendering: pixelated; }
.missing { display: grid; place-items: center; border: 1px dashed var(--line); border-radius: 4px;
  color: var(--quiet); }
figure { margin: 0; }
figure svg { display: block; width: 100%; max-width: 860px; height: auto; }
figure svg text { font-family: inherit !important; }
figcaption { color: var(--quiet); font-size: 0.9rem; margin-top: 0.5rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.95rem; }
th, td { text-align: left; padding: 0.35rem 1rem 0.35rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
th { font-weight: normal; color: var(--quiet); width: 35%; }
.number { white-space: nowrap; font-variant-numeric: tabular-nums; text-align: right; width: 1%; }
.bar { padding-right: 0; }
.bar i { display: block; height: 0.6rem; min-width: 1px; border-radius: 2px; background: var(--accent); }
.total > * { font-weight: 600; color: var(--text); border-bottom: none; }
@media (max-width: 640px) {
  .sample { grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 0.4rem; margin-bottom: 1.25rem; }
  .sample .about { grid-column: 1 / -1; }
  .header > :first-child { display: none; }
  .header span { font-size: 0.72rem; }
}
"""
