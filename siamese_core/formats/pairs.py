"""The pack's own layout: ``images/``, ``masks/`` and ``prompt.json``, which training.train reads as it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..masks import mask_to_uint8
from ..pair_writer import PROMPTS, png_bytes
from .layout import FileContent, FinishedPair, Record


class Pairs:
    """``images/<stem>.png`` and ``masks/<stem>.png`` (0/255), and a prompt file of JSON Lines."""

    name = "pairs"
    chunk_is_a_file = False

    def pair_files(self, chunk: Sequence[FinishedPair]) -> Iterator[list[FileContent]]:
        for pair in chunk:
            name = f"{pair.record.stem}.png"
            yield [
                (f"images/{name}", png_bytes(pair.image, pair.text)),
                (f"masks/{name}", png_bytes(mask_to_uint8(pair.mask))),
            ]

    def index_files(
        self, records: Callable[[], Iterable[Record]], read: Callable[[str], bytes]
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        yield PROMPTS, (_prompt_line(record) for record in records())


def _prompt_line(record: Record) -> bytes:
    image, mask = (file["name"] for file in record["files"])
    # Without a prompt, whoever reads the pairs falls back on one of their own.
    prompt = {"prompt": record["prompt"]} if record["prompt"] else {}
    line = json.dumps({"source": mask, "target": image, **prompt}, ensure_ascii=False)
    return (line + "\n").encode("utf-8")
