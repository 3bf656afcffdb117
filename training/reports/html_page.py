"""Building blocks of self-contained HTML reports: page, cards, tables, pictures and figures.

Pictures are data URLs and plots inline SVG; pages load nothing and run no scripts. They follow the reader's
light or dark colour scheme. Every function escapes the text it is given.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

TEXT_COLOUR = "#010203"  # a placeholder in figures, replaced by the colour of the page's text

_PIXELATED_BELOW = 256  # width in px below which images are enlarged without smoothing


def page(title: str, sections: Iterable[str], style: str = "") -> str:
    """An HTML document; empty ``sections`` are dropped, ``style`` is additional CSS."""
    shown = escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{shown}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n<main>\n<h1>{shown}</h1>\n"
        f"{''.join(sections)}</main>\n</body>\n</html>\n"
    )


def section(heading: str, content: str) -> str:
    """``content`` (HTML) under ``heading`` (text); empty without content."""
    return f"<section>\n<h2>{escape(heading)}</h2>\n{content}\n</section>\n" if content else ""


def cards(summary: Mapping[str, str | float | int]) -> str:
    """The headline facts, one card each."""
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(number(value))}</dd></div>"
        for name, value in summary.items()
    )
    return f'<dl class="cards">{facts}</dl>\n' if facts else ""


def picture(pixels: NDArray[np.uint8] | None, description: str) -> str:
    """``pixels``, (H, W, 3) or (H, W) uint8, as an image; a placeholder for None."""
    if pixels is None:
        return '<span class="missing">none</span>'
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    pixelated = ' class="pixelated"' if pixels.shape[1] < _PIXELATED_BELOW else ""
    return f'<img{pixelated} alt="{escape(description)}" src="data:image/png;base64,{data}">'


def key_values(settings: Mapping[str, object]) -> str:
    """A table of names and values."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
        for name, value in settings.items()
    )
    return f"<table>{rows}</table>" if rows else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numeric: Collection[str] = ()) -> str:
    """A table of text under ``header``; columns named in ``numeric`` are right-aligned."""
    kinds = [' class="number"' if name in numeric else "" for name in header]

    def cells(tag: str, texts: Sequence[str]) -> str:
        pairs = zip(texts, kinds, strict=True)
        return f"<tr>{''.join(f'<{tag}{kind}>{escape(text)}</{tag}>' for text, kind in pairs)}</tr>"

    body = "".join(cells("td", row) for row in rows)
    return f'<table class="wide"><thead>{cells("th", header)}</thead>{body}</table>' if body else ""


def bullets(notes: Sequence[str]) -> str:
    """A bulleted list; empty without notes."""
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""


def number(value: str | float | int) -> str:
    """A value as text: floats with four significant digits, integers with thousands separators."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


def duration(seconds: float) -> str:
    """A duration as text, such as ``1 h 02 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def captioned(content: str, caption: str) -> str:
    """``content`` (HTML) with ``caption`` (text) below it."""
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def plot(height: float) -> tuple[Figure, Axes]:
    """An empty figure of 7 by ``height`` inches in the style of the reports."""
    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes)
    return figure, axes


def style_axes(axes: Axes) -> None:
    """Apply the style of the reports to ``axes``: no box, a faint grid, the colour of the page's text."""
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(TEXT_COLOUR)
    axes.tick_params(which="both", colors=TEXT_COLOUR)
    axes.xaxis.label.set_color(TEXT_COLOUR)
    axes.yaxis.label.set_color(TEXT_COLOUR)
    axes.title.set_color(TEXT_COLOUR)
    axes.grid(color=TEXT_COLOUR, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """``figure`` as an <svg> element of an HTML page; a unique ``name`` keeps element ids distinct."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # With a fixed salt equal reports have equal bytes; text is kept as text, in the page's typeface.
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    # Inside HTML, <svg> needs neither the XML prolog nor namespaces.
    drawing = buffer.getvalue().partition("<svg")[2].partition(">")[2]
    width, height = figure.get_size_inches() * 72
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(description)}">'
        + drawing.replace(TEXT_COLOUR, "currentColor")
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
.wide th { width: auto; }
.number { white-space: nowrap; font-variant-numeric: tabular-nums; text-align: right; width: 1%; }
.bar { padding-right: 0; }
.bar i { display: block; height: 0.6rem; min-width: 1px; border-radius: 2px; background: var(--accent); }
.total > * { font-weight: 600; color: var(--text); border-bottom: none; }
"""
