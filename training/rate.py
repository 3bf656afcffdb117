"""Blinded ratings: make a page on which physicians judge real and synthetic images, and score their answers.

    python -m training.rate page --real DIR --synthetic DIR --output rating.html --count 25
    python -m training.rate page --real DIR --synthetic mask-only=DIR --synthetic siamese=DIR --output ...
    python -m training.rate score A.csv B.csv C.csv --key rating.html.key.json --output DIR

page writes one HTML file that needs no network: --count images of every source, mixed, all at the same size
and encoded alike. It also writes OUTPUT.key.json, which says which image is which: keep it from the raters.
Each rater opens the page, rates the images from 1 (certainly artificial) to 5 (certainly real), each in a
different order, and hands in the CSV that the page saves.

score reads the CSVs of all raters (three or more) and writes OUTPUT/ratings.json, ratings.md and
ratings.html: the mean opinion score of every source, how often its images were taken for real, differences
between sources, and each rater's means and their agreement.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from siamese_core.files import write_text_atomic
from siamese_core.masks.resizing import ResizeMode
from siamese_core.settings import SEED, Range, option

from .command_line.notes import note
from .command_line.options import OptionError, add_flags, build, command_parser, run_command
from .evaluation.metrics.image_sets import find_images
from .rating.page import choose, page_items, render_page, set_id, smallest_side
from .rating.report import score_study, study_html, study_markdown, study_notes, study_record
from .rating.study_files import REAL, Key, KeyItem, combine, is_plain_name, read_key, read_sheet, write_key

_UNNAMED = "synthetic"
_FEWEST = 2  # images per source, since one image has no variance
_SMALLEST_SIDE, _LARGEST_SIDE = 8, 2048


@dataclass(frozen=True)
class PageSettings:
    """Settings of the rating page."""

    real: Path = option(Path(), "folder of real images, or of pairs")
    output: Path = option(Path(), ".html file to write")
    count: int = option(25, "images per source", Range(_FEWEST))
    resolution: int | None = option(
        None,
        "side of the shown images in pixels; default: the shortest side among them, so that none is enlarged",
        Range(_SMALLEST_SIDE, _LARGEST_SIDE),
    )
    resize_mode: ResizeMode = option("stretch", "how images are resized to it")
    seed: int = option(42, "seed of the choice and order of images", SEED)


@dataclass(frozen=True)
class ScoreSettings:
    """Settings of scoring."""

    key: Path = option(Path(), "the .key.json file written with the page")
    output: Path = option(Path(), "folder for the results, new or empty")
    allow_missing: bool = option(False, "leave out images that some raters did not rate")
    seed: int = option(42, "seed of resamples and permutations", SEED)


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parse(arguments)
    if args.command == "page":
        return write_page(build(PageSettings, args, {}), args.synthetic, args.overwrite)
    return write_scores(build(ScoreSettings, args, {}), args.csv)


def write_page(settings: PageSettings, synthetic: Sequence[str], overwrite: bool) -> int:
    """Write the page and its key."""
    folders = _sources(settings, synthetic)
    page, key_path = settings.output, settings.output.with_name(settings.output.name + ".key.json")
    _check_page_settings(settings)
    for path in (page, key_path):
        if path.exists() and not overwrite:
            raise OptionError(
                f"{path}: exists; ratings of that page could not be scored without its key. Give another "
                "--output, or --overwrite to replace both"
            )
    choices = [
        choice
        for name, folder in folders.items()
        for choice in choose(name, find_images(folder, note).images, settings.count, settings.seed)
    ]
    shortest = smallest_side(choices)
    side = settings.resolution or min(shortest, _LARGEST_SIDE)
    if side > shortest:
        print(
            f"note: --resolution {side} enlarges images whose shortest side is {shortest}; where that blurs "
            "one source only, it gives the source away"
        )
    items = page_items(choices, side, settings.resize_mode, settings.seed)
    key = Key(
        set_id(items),
        tuple(folders),
        {item.name: KeyItem(item.choice.source, str(item.choice.file)) for item in items},
        {
            "folders": {name: str(folder) for name, folder in folders.items()},
            "count": settings.count,
            "resolution": side,
            "resize_mode": settings.resize_mode,
            "seed": settings.seed,
        },
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    write_key(key_path, key)
    write_text_atomic(page, render_page(items))
    megabytes = page.stat().st_size / 1e6
    print(f"{len(items)} images at {side} px, {settings.count} of each of {', '.join(folders)}: {key.set_id}")
    print(f"page for the raters: {page} ({megabytes:.1f} MB)\nkey, not for the raters: {key_path}")
    return 0


def write_scores(settings: ScoreSettings, files: Sequence[Path]) -> int:
    """Score the raters' CSVs."""
    for name in ("key", "output"):
        if getattr(settings, name) == Path():
            raise OptionError(f"--{name} is needed")
    output = settings.output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OptionError(f"{output}: must be a new or empty folder; give another --output")
    key = read_key(settings.key)
    sheets = [read_sheet(path, key) for path in files]
    ratings = combine(sheets, key, allow_missing=settings.allow_missing)
    study = score_study(key, sheets, ratings, settings.seed)
    output.mkdir(parents=True, exist_ok=True)
    record = json.dumps(study_record(study), indent=1, ensure_ascii=False)
    write_text_atomic(output / "ratings.json", record + "\n")
    write_text_atomic(output / "ratings.md", study_markdown(study))
    write_text_atomic(output / "ratings.html", study_html(study))
    for text in study_notes(study):
        note(text)
    for score in study.scores:
        opinion = score.mean_opinion_score.value
        print(f"{score.source}: {opinion:.2f}, taken for real {100 * score.taken_for_real.value:.0f} %")
    print(f"see {output / 'ratings.html'}")
    return 0


def _sources(settings: PageSettings, synthetic: Sequence[str]) -> dict[str, Path]:
    """The folders by source name, the real one first."""
    if settings.real == Path():
        raise OptionError("--real is needed")
    folders = {REAL: settings.real}
    for text in synthetic:
        name, is_named, folder = text.partition("=")
        if not is_named or Path(text).exists():
            name, folder = _UNNAMED, text
        if not is_plain_name(name):
            raise OptionError(
                f"--synthetic {text}: {name!r} cannot name a source; use up to 40 letters, digits, spaces "
                "and . _ ' -, beginning with a letter or a digit"
            )
        if name in folders:
            raise OptionError(f"--synthetic {text}: a source {name!r} is there already; give NAME=DIR")
        folders[name] = Path(folder)
    return folders


def _check_page_settings(settings: PageSettings) -> None:
    if settings.output == Path():
        raise OptionError("--output is needed")
    if settings.output.suffix.lower() not in (".html", ".htm") or settings.output.is_dir():
        raise OptionError(f"--output must be an .html file, not {settings.output}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser("rate", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    page = commands.add_parser("page", help="write the page and its key")
    page.add_argument(
        "--synthetic", action="append", required=True, metavar="[NAME=]DIR",
        help="folder of synthetic images or pairs; repeat the option with names to compare several",
    )  # fmt: skip
    page.add_argument("--overwrite", action="store_true", help="replace an earlier page and its key")
    add_flags(page, PageSettings)
    score = commands.add_parser("score", help="score the raters' CSVs")
    score.add_argument("csv", type=Path, nargs="+", metavar="CSV", help="CSV file saved by a rater's page")
    add_flags(score, ScoreSettings)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_command(main)
