"""The page on which raters judge images without knowing their sources."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from siamese_core.masks.image_decoding import image_header
from siamese_core.masks.resizing import ResizeMode, resize_image
from siamese_core.pairs.image_files import read_image
from siamese_core.pairs.pair_writer import png_bytes
from siamese_core.seeds import generator, stream_seed

from .study_files import RatingError

SCALE = ("certainly artificial", "probably artificial", "cannot tell", "probably real", "certainly real")
"""The meanings of the ratings 1..5, in order."""

_TEMPLATE = "page.html"
_DATA_MARK = "{{data}}"


@dataclass(frozen=True)
class Choice:
    """An image chosen for the page, and its source."""

    source: str
    file: Path


@dataclass(frozen=True)
class PageItem:
    """An image on the page: its anonymous name, its origin, and its PNG file."""

    name: str
    choice: Choice
    png: bytes


def choose(source: str, files: Sequence[Path], count: int, seed: int) -> list[Choice]:
    """Draw ``count`` of a source's ``files`` without replacement. Raises RatingError if there are too few."""
    if len(files) < count:
        raise RatingError(f"{source!r} has {len(files)} images, fewer than --count {count}; ask for fewer")
    drawn = torch.randperm(len(files), generator=generator(stream_seed(seed, f"rating choice {source}")))
    return [Choice(source, files[index]) for index in drawn[:count].tolist()]


def smallest_side(choices: Sequence[Choice]) -> int:
    """The shortest side of all chosen images in pixels; at this size none of them is enlarged."""
    return min(min(image_header(choice.file, "image").size) for choice in choices)


def page_items(choices: Sequence[Choice], side: int, mode: ResizeMode, seed: int) -> list[PageItem]:
    """The chosen images, shuffled, at ``side`` x ``side`` pixels and encoded alike, named by position.

    The order depends on ``seed`` and on the sources of the images, so that it cannot be derived from the page
    and a guessed seed. Raises PairError for a file that cannot be read and RatingError when two sources share
    an image.
    """
    digest = hashlib.sha256()
    first_seen: dict[bytes, Choice] = {}
    encoded: list[bytes] = []
    for choice in tqdm(choices, desc="images", unit="image"):
        pixels = resize_image(read_image(choice.file), (side, side), mode)
        other = first_seen.setdefault(_pixel_digest(pixels), choice)
        if other.source != choice.source:
            raise RatingError(
                f"{choice.file}, of {choice.source!r}, is the same image as {other.file}, of "
                f"{other.source!r}; one of them must go"
            )
        digest.update(choice.source.encode() + _pixel_digest(pixels))
        encoded.append(png_bytes(pixels))
    secret = stream_seed(seed, "rating order", int.from_bytes(digest.digest()[:8], "big"))
    order = torch.randperm(len(choices), generator=generator(secret)).tolist()
    digits = len(str(len(choices)))
    return [
        PageItem(f"item-{place:0{digits}}", choices[index], encoded[index])
        for place, index in enumerate(order, start=1)
    ]


def set_id(items: Sequence[PageItem]) -> str:
    """The id that links page, CSVs and key: a digest of the page's images in order."""
    digest = hashlib.sha256(b"".join(hashlib.sha256(item.png).digest() for item in items))
    return f"set-{digest.hexdigest()[:12]}"  # the prefix keeps spreadsheets from reading it as a number


def render_page(items: Sequence[PageItem]) -> str:
    """The HTML document; of ``items`` it contains only names and pixels."""
    data = {
        "set": set_id(items),
        "scale": SCALE,
        "items": [{"id": item.name, "image": _data_url(item.png)} for item in items],
    }
    template = resources.files(__package__).joinpath(_TEMPLATE).read_text("utf-8")
    # "<" is escaped, because a text could otherwise end the script element that holds the data.
    return template.replace(_DATA_MARK, json.dumps(data).replace("<", "\\u003c"))


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _pixel_digest(pixels: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(pixels.tobytes()).digest()
