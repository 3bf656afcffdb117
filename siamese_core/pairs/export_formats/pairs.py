"""This project's own layout, which training.train reads: ``images/``, ``masks/`` and ``prompt.json``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ..pair_writer import PROMPTS
from .layout import Record, json_line
from .png_pairs import PngPairs


class Pairs(PngPairs):
    """``images/<stem>.png`` and ``masks/<stem>.png`` (0/255), and a prompt file of JSON Lines."""

    name = "pairs"
    image_file, mask_file = "images/{}.png", "masks/{}.png"

    def index_files(
        self, records: Callable[[], Iterable[Record]], read: Callable[[str], bytes]
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        yield PROMPTS, map(_prompt_line, records())


def _prompt_line(record: Record) -> bytes:
    image, mask = (file["name"] for file in record["files"])
    # Without the key, readers fall back on their default prompt.
    prompt = {"prompt": record["prompt"]} if record["prompt"] else {}
    return json_line({"source": mask, "target": image, **prompt})
