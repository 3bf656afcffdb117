"""The files of a rating study: the key with the origin of each item, and the raters' CSVs."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siamese_core.errors import UserError
from siamese_core.files import write_text_atomic
from siamese_core.text_files import csv_delimiter

from .scores import HIGHEST, LOWEST, Ratings

COLUMNS = ("set", "rater", "item", "rating", "seconds", "order")
REAL = "real"

_LONGEST_NAME = 40
_SHOWN_ITEMS = 5


class RatingError(UserError):
    """A study cannot be made or scored as asked; the message names the file, the line and the fix."""


@dataclass(frozen=True)
class KeyItem:
    """The origin of an item on the page: its source and image file."""

    source: str
    file: str


@dataclass(frozen=True)
class Key:
    """The key of a page: ``sources`` in the order to show them, and the origin of each item.

    ``settings`` are those of the page.
    """

    set_id: str
    sources: tuple[str, ...]
    items: Mapping[str, KeyItem]
    settings: Mapping[str, object]


@dataclass(frozen=True)
class Sheet:
    """One rater's CSV: the rating 1..5 and the seconds for each item in the file, in order."""

    path: Path
    rater: str
    ratings: Mapping[str, int]
    seconds: Mapping[str, int]


def is_plain_name(name: str) -> bool:
    """Whether ``name`` is a valid name of a rater or source: 1..40 letters, digits, spaces and ``. _ ' -``.

    It must begin with a letter or digit, because spreadsheets take a leading = + - or @ for a formula.
    """
    allowed = all(unicodedata.category(c)[0] in "LMN" or c in " ._'-" for c in name)
    return allowed and len(name) <= _LONGEST_NAME and name[:1].isalnum() and name == name.strip()


def write_key(path: Path, key: Key) -> None:
    """Write ``key`` as JSON, atomically."""
    record = {
        "set": key.set_id,
        "sources": list(key.sources),
        "settings": dict(key.settings),
        "items": {name: {"source": item.source, "file": item.file} for name, item in key.items.items()},
    }
    write_text_atomic(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def read_key(path: Path) -> Key:
    """Read a key file. Raises RatingError when it is missing or invalid."""
    try:
        record = json.loads(path.read_text("utf-8"))
        items = {
            str(name): KeyItem(str(item["source"]), str(item["file"]))
            for name, item in record["items"].items()
        }
        key = Key(str(record["set"]), tuple(record["sources"]), items, dict(record["settings"]))
        if {item.source for item in items.values()} != set(key.sources):
            raise ValueError("the sources are not those of the items")
    except OSError as error:
        raise RatingError(f"{path}: the key cannot be read ({error.strerror}); check --key") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RatingError(
            f"{path}: is no key of a rating page; give the .key.json that was written beside the page"
        ) from error
    return key


def read_sheet(path: Path, key: Key) -> Sheet:
    """Read one rater's CSV and check it against ``key``; missing items are left to :func:`combine`.

    Raises RatingError, naming the line, for another set, a second rater in one file, an unknown item, an item
    rated twice, a rating that is not an integer 1..5, and seconds that are not a number.
    """
    ratings: dict[str, int] = {}
    seconds: dict[str, int] = {}
    line_of: dict[str, int] = {}
    rater = ""
    for line, row in _rows(path):
        where = f"{path}, line {line}"
        if row["set"] != key.set_id:
            raise RatingError(f"{where}: is of the set {row['set']!r}, but the key is of {key.set_id!r}")
        name = _normalised(row["rater"])
        if not is_plain_name(name):
            raise RatingError(f"{where}: {row['rater']!r} cannot be the name of a rater; correct it")
        rater = rater or name
        if name != rater:
            raise RatingError(
                f"{where}: is by {name!r}, the lines before by {rater!r}; give a file per rater"
            )
        item = row["item"]
        if item not in key.items:
            raise RatingError(f"{where}: the page has no item {item!r}")
        if item in line_of:
            raise RatingError(
                f"{where}: {item!r} was already rated in line {line_of[item]}; remove one of them"
            )
        line_of[item] = line
        ratings[item] = _rating(row["rating"], where)
        seconds[item] = _seconds(row["seconds"], where)
    if not ratings:
        raise RatingError(f"{path}: holds no ratings")
    return Sheet(path, rater, ratings, seconds)


def combine(sheets: Sequence[Sheet], key: Key, *, allow_missing: bool = False) -> Ratings:
    """The ratings of all ``sheets``, with items in the key's order.

    With ``allow_missing``, items that not all raters rated are left out. Raises RatingError for missing items
    without it, for two sheets of one rater, and when fewer than two items of a source are left.
    """
    by_rater: dict[str, Sheet] = {}
    for sheet in sheets:
        # casefold, because the page treats names that differ only in case as the same rater.
        other = by_rater.setdefault(sheet.rater.casefold(), sheet)
        if other is not sheet:
            raise RatingError(f"{sheet.path} and {other.path} are both by {sheet.rater!r}; give one of them")
        missing = [item for item in key.items if item not in sheet.ratings]
        if missing and not allow_missing:
            raise RatingError(
                f"{sheet.path}: {len(missing)} of {len(key.items)} items have no rating "
                f"({_listed(missing)}); let the rater open the page again and finish, or add --allow-missing "
                "to score what all raters rated"
            )
    kept = [item for item in key.items if all(item in sheet.ratings for sheet in sheets)]
    source_of = tuple(key.items[item].source for item in kept)
    for source in key.sources:
        if source_of.count(source) < 2:
            raise RatingError(
                f"{source!r}: fewer than 2 of its items were rated by every rater, which is too few to score"
            )
    values = np.array([[sheet.ratings[item] for item in kept] for sheet in sheets], dtype=np.int64)
    raters = tuple(sheet.rater for sheet in sheets)
    return Ratings(raters, tuple(kept), key.sources, source_of, values)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV, as (line number, value by :data:`COLUMNS` name); empty lines are skipped."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RatingError(f"{path}: is not UTF-8 text; give the file as the page saved it") from error
    except OSError as error:
        raise RatingError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    # A spreadsheet may have saved the page's file again.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=csv_delimiter(text))
    header = [name.strip() for name in next(reader, [])]
    lacking = [name for name in COLUMNS if name not in header]
    if lacking:
        raise RatingError(
            f"{path}, line 1: has no column {lacking[0]!r}; the columns are {', '.join(COLUMNS)}"
        )
    rows = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise RatingError(
                    f"{path}, line {reader.line_num}: has {len(cells)} values for {len(header)} columns"
                )
            rows.append((reader.line_num, {n: c.strip() for n, c in zip(header, cells, strict=True)}))
    except csv.Error as error:
        raise RatingError(f"{path}, line {reader.line_num}: is no CSV ({error})") from error
    return rows


def _normalised(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).split())


def _rating(text: str, where: str) -> int:
    levels = [str(level) for level in range(LOWEST, HIGHEST + 1)]
    if text not in levels:
        raise RatingError(f"{where}: the rating {text!r} is none of {', '.join(levels)}")
    return int(text)


def _seconds(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise RatingError(f"{where}: the seconds {text!r} are no whole number")
    return int(text)


def _listed(items: Sequence[str]) -> str:
    shown = ", ".join(items[:_SHOWN_ITEMS])
    return f"{shown} and {len(items) - _SHOWN_ITEMS} more" if len(items) > _SHOWN_ITEMS else shown
