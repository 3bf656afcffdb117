"""WebDataset shards: tar files that are read sequentially."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict

from ...masks.resizing import mask_to_uint8
from ..pair_writer import png_bytes
from .layout import FileContent, FinishedPair, Record, json_line


class WebDataset:
    """``pairs-<index of the first>.tar``, in which a sample has ``png``, ``mask.png`` (0/255) and ``json``.

    A sample's key is the pair's index, because a key ends at its first dot and stems may contain dots. The
    JSON is the pair's record, including stem and prompt.
    """

    name = "webdataset"
    chunk_is_a_file = True

    def names(self, index: int, stem: str) -> list[str]:
        return [f"pairs-{index:09d}.tar"]

    def pair_files(self, chunk: Sequence[FinishedPair]) -> Iterator[list[FileContent]]:
        if not chunk:  # all pairs of the chunk were skipped
            return
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for pair in chunk:
                key = f"{pair.record.index:09d}"
                _add(tar, f"{key}.png", png_bytes(pair.image, pair.text))
                _add(tar, f"{key}.mask.png", png_bytes(mask_to_uint8(pair.mask)))
                _add(tar, f"{key}.json", json_line(asdict(pair.record)))
        (name,) = self.names(chunk[0].record.index, chunk[0].record.stem)
        shard = (name, buffer.getvalue())
        for _ in chunk:
            yield [shard]

    def index_files(
        self, records: Callable[[], Iterable[Record]], read: Callable[[str], bytes]
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        yield from ()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    # A plain TarInfo has neither time nor owner, so that equal pairs make equal files.
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
