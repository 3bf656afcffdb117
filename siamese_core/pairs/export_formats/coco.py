"""COCO annotations: one object per connected region of a mask, run-length encoded."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...masks.connected_components import component_runs
from .layout import Record
from .png_pairs import PngPairs

_CATEGORY = 1


class Coco(PngPairs):
    """``images/``, ``annotations.json``, and the ``masks/`` (0/255) that the annotations are made from.

    Run lengths are used instead of polygons because they reproduce every pixel, including holes and single
    pixels. The union of an image's objects is its mask; an image without foreground has no objects.
    """

    name = "coco"
    image_file, mask_file = "images/{}.png", "masks/{}.png"

    def index_files(
        self, records: Callable[[], Iterable[Record]], read: Callable[[str], bytes]
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        yield "annotations.json", _annotation_file(records, read)


def objects(mask: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    """``segmentation``, ``area`` and ``bbox`` of each 8-connected region of the (H, W) bool ``mask``.

    ``bbox`` is (left, top, width, height) in pixels. ``segmentation`` has ``size`` (H, W) and ``counts``, a
    compressed string as made by pycocotools.
    """
    height, width = mask.shape
    # COCO orders pixels by column, so its runs are those of the transposed mask.
    runs = component_runs(mask.T)
    order = np.argsort(runs.component, kind="stable")
    bounds = np.flatnonzero(np.diff(runs.component[order])) + 1
    for part in np.split(order, bounds) if len(order) else ():
        column, top, bottom = runs.row[part], runs.start[part], runs.end[part]
        yield {
            "segmentation": {
                "size": [height, width],
                "counts": compressed(_counts(column * height + top, column * height + bottom, mask.size)),
            },
            "area": int((bottom - top).sum()),
            "bbox": [
                int(column[0]),
                int(top.min()),
                int(column[-1] - column[0] + 1),
                int(bottom.max() - top.min()),
            ],
        }


def compressed(counts: Iterable[int]) -> str:
    """Run lengths as COCO's string: base 32, from the fourth on as differences from the last but one."""
    counts = list(counts)
    text = []
    for place, count in enumerate(counts):
        number = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            digit, number = number & 31, number >> 5
            # A digit's fifth bit is the sign of the remaining number.
            more = number != (-1 if digit & 16 else 0)
            text.append(chr(48 + digit + 32 * more))
    return "".join(text)


def _counts(starts: NDArray[Any], ends: NDArray[Any], size: int) -> list[int]:
    """Alternating lengths of background and foreground, from runs over ``size`` pixels in column order."""
    # A run that reaches the end of a column is joined with one at the top of the next column.
    apart = starts[1:] > ends[:-1]
    edges = np.stack([starts[np.r_[True, apart]], ends[np.r_[apart, True]]], axis=1).ravel()
    counts = np.diff(edges, prepend=0).tolist()
    rest = size - int(edges[-1])
    return [*counts, rest] if rest else counts


def _annotation_file(
    records: Callable[[], Iterable[Record]], read: Callable[[str], bytes]
) -> Iterator[bytes]:
    # Non-ASCII letters are escaped and "info" is present, because older readers open the file in the system's
    # encoding and require the key.
    head = {
        "info": {},
        "licenses": [],
        "categories": [{"id": _CATEGORY, "name": "foreground", "supercategory": ""}],
    }
    yield json.dumps(head).encode()[:-1] + b',\n"images": ['
    yield from _items(_image(record, read) for record in records())
    yield b'\n],\n"annotations": ['
    annotations = (_annotated(record, found) for record in records() for found in _found(record, read))
    # Ids start at 1: pycocotools' evaluation takes 0 for no annotation.
    yield from _items({"id": number, **annotation} for number, annotation in enumerate(annotations, start=1))
    yield b"\n]}\n"


def _items(items: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    for place, item in enumerate(items):
        yield (",\n" if place else "\n").encode() + json.dumps(item).encode()


def _image(record: Record, read: Callable[[str], bytes]) -> dict[str, Any]:
    image, mask = (file["name"] for file in record["files"])
    with Image.open(io.BytesIO(read(mask))) as opened:  # smaller than the image's file
        width, height = opened.size
    return {
        "id": record["index"] + 1,
        # Relative to images/, because readers are given that folder.
        "file_name": image.removeprefix("images/"),
        "width": width,
        "height": height,
        "prompt": record["prompt"],
    }


def _found(record: Record, read: Callable[[str], bytes]) -> Iterator[dict[str, Any]]:
    with Image.open(io.BytesIO(read(record["files"][1]["name"]))) as opened:
        yield from objects(np.asarray(opened) > 0)


def _annotated(record: Record, found: dict[str, Any]) -> dict[str, Any]:
    return {"image_id": record["index"] + 1, "category_id": _CATEGORY, "iscrowd": 0, **found}
