"""A folder that Hugging Face's ``datasets.load_dataset("FOLDER")`` reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .layout import Record, json_line
from .png_pairs import PngPairs

# Without this card, datasets takes names such as test_4.png for splits and does not apply the metadata.
_CARD = b"""---
configs:
- config_name: default
  data_files:
  - split: train
    path:
    - metadata.jsonl
    - images/*
    - masks/*
---
"""


class ImageFolder(PngPairs):
    """``images/``, ``masks/`` (0/255) and ``metadata.jsonl``, read as columns image, mask and prompt.

    ``README.md``, the dataset card, declares the files.
    """

    name = "imagefolder"
    image_file, mask_file = "images/{}.png", "masks/{}.png"

    def index_files(
        self, records: Callable[[], Iterable[Record]], read: Callable[[str], bytes]
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        yield "README.md", iter([_CARD])
        yield "metadata.jsonl", map(_metadata_line, records())


def _metadata_line(record: Record) -> bytes:
    image, mask = (file["name"] for file in record["files"])
    return json_line({"file_name": image, "mask_file_name": mask, "prompt": record["prompt"]})
