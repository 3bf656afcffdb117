"""The page on which raters judge images without knowing their sources, and the key to it."""

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
"""What the ratings 1..5 mean."""

_TEMPLATE = "page.html"
_DATA_MARK = "{{data}}"


@dataclass(frozen=True)
class Choice:
    """An image chosen for the page."""

    source: str
    file: Path


@dataclass(frozen=True)
class PageItem:
    """An image on the page: its opaque name, what it really is, and its PNG file."""

    name: str
    choice: Choice
    png: bytes


def choose(source: str, files: Sequence[Path], count: int, seed: int) -> list[Choice]:
    """``count`` of a source's ``files``, drawn without replacement. Raises RatingError for too few."""
    if len(files) < count:
        raise RatingError(f"{source!r} has {len(files)} images, fewer than --count {count}; ask for fewer")
    drawn = torch.randperm(len(files), generator=generator(stream_seed(seed, f"rating choice {source}")))
    return [Choice(source, files[index]) for index in drawn[:count].tolist()]


def smallest_side(choices: Sequence[Choice]) -> int:
    """The shortest side in pixels of all the chosen images: at this side none of them is enlarged."""
    return min(min(image_header(choice.file, "image").size) for choice in choices)


def page_items(choices: Sequence[Choice], side: int, mode: ResizeMode, seed: int) -> list[PageItem]:
    """The chosen images at ``side`` x ``side`` pixels, all encoded alike, mixed and named by their places.

    The order depends on ``seed`` and on which image is whose, so that it cannot be worked out from the page
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
    """The name that ties page, CSVs and key together: a digest of what the page shows, in its order."""
    digest = hashlib.sha256(b"".join(hashlib.sha256(item.png).digest() for item in items))
    return f"set-{digest.hexdigest()[:12]}"  # the letters keep a spreadsheet from reading a number


def render_page(items: Sequence[PageItem]) -> str:
    """The HTML document. Of ``items`` it holds their names and pixels, nothing else."""
    data = {
        "set": set_id(items),
        "scale": SCALE,
        "items": [{"id": item.name, "image": _data_url(item.png)} for item in items],
    }
    template = resources.files(__package__).joinpath(_TEMPLATE).read_text("utf-8")
    # "<" would let a text end the script element that holds the data.
    return template.replace(_DATA_MARK, json.dumps(data).replace("<", "\\u003c"))


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _pixel_digest(pixels: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(pixels.tobytes()).digest()
