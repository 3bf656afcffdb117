"""Base class of most layouts: one PNG file for the image and one for the mask, named after the pair."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from ..pair_writer import png_bytes
from .layout import FileContent, FinishedPair, Record


class PngPairs:
    """Pairs as PNG files; ``{}`` in file names stands for the stem, ``foreground`` is its value in masks."""

    name: str
    image_file: str
    mask_file: str
    foreground = 255
    chunk_is_a_file = False

    def names(self, index: int, stem: str) -> list[str]:
        return [self.image_file.format(stem), self.mask_file.format(stem)]

    def pair_files(self, chunk: Sequence[FinishedPair]) -> Iterator[list[FileContent]]:
        for pair in chunk:
            levels = pair.mask.astype("uint8") * self.foreground
            image, mask = self.names(pair.record.index, pair.record.stem)
            yield [(image, png_bytes(pair.image, pair.text)), (mask, png_bytes(levels))]

    def index_files(
        self, records: Callable[[], Iterable[Record]], read: Callable[[str], bytes]
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        yield from ()
