"""What a format of a written dataset is: names and contents of its files, wherever they go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..manifest import PairRecord

FileContent = tuple[str, bytes]
"""A file's name below the dataset's root, with forward slashes, and its content."""

Record = Mapping[str, Any]
"""A line of the manifest: the fields of PairRecord, and ``files``, see StoredFile."""


@dataclass(frozen=True)
class FinishedPair:
    """A pair to be written: image (H, W, 3) uint8, mask (H, W) bool, ``text`` for the image's PNG."""

    record: PairRecord
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    text: Mapping[str, str]


@dataclass(frozen=True)
class StoredFile:
    """A file that holds an image, a mask or both, as the manifest lists it: in ``files``, the image first."""

    name: str
    bytes: int
    sha256: str


class PairFormat(Protocol):
    """One layout. Everything is a pure function of the pairs, so that equal runs write equal files."""

    name: str
    chunk_is_a_file: bool
    """Whether the pairs of a chunk share one file, so that the chunk's size is part of the dataset."""

    def names(self, index: int, stem: str) -> list[str]:
        """The files that the pair of this index and stem may be written to."""
        ...

    def pair_files(self, chunk: Sequence[FinishedPair]) -> Iterator[list[FileContent]]:
        """For each pair of consecutive ones its files, image first; those that pairs share come with each."""
        ...

    def index_files(
        self, records: Callable[[], Iterable[Record]], read: Callable[[str], bytes]
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Name and content, piece by piece, of the files that describe the whole dataset.

        ``records`` begins a new pass over the manifest's lines in order of their index; ``read`` returns the
        content of one of its files. Neither is kept in memory, for a dataset may hold a million pairs.
        """
        ...


def stored_file(name: str, content: bytes) -> StoredFile:
    """What the manifest says of a file that holds ``content``."""
    return StoredFile(name, len(content), hashlib.sha256(content).hexdigest())


def json_line(values: Mapping[str, Any]) -> bytes:
    """A line of JSON Lines, in UTF-8."""
    return (json.dumps(values, ensure_ascii=False) + "\n").encode("utf-8")
