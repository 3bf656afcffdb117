"""A folder that ``datasets.load_dataset("imagefolder", data_dir=...)`` of Hugging Face reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .layout import Record, json_line
from .png_pairs import PngPairs


class ImageFolder(PngPairs):
    """``images/``, ``masks/`` (0/255) and a ``metadata.jsonl``, read as columns image, mask and prompt."""

    name = "imagefolder"
    image_file, mask_file = "images/{}.png", "masks/{}.png"

    def index_files(
        self, records: Callable[[], Iterable[Record]], read: Callable[[str], bytes]
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        yield "metadata.jsonl", map(_metadata_line, records())


def _metadata_line(record: Record) -> bytes:
    image, mask = (file["name"] for file in record["files"])
    return json_line({"file_name": image, "mask_file_name": mask, "prompt": record["prompt"]})
