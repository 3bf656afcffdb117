"""The interface of dataset formats: names and contents of files, independent of where they are stored."""

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
"""A line of the manifest: the fields of PairRecord, and ``files``, a list of StoredFile as dicts."""


@dataclass(frozen=True)
class FinishedPair:
    """A pair to write: ``image`` (H, W, 3) uint8, ``mask`` (H, W) bool, ``text`` for the image's PNG."""

    record: PairRecord
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    text: Mapping[str, str]


@dataclass(frozen=True)
class StoredFile:
    """A file that holds an image, a mask or both, as in the manifest's ``files`` (the image comes first)."""

    name: str
    bytes: int
    sha256: str


class PairFormat(Protocol):
    """One layout. All contents are pure functions of the pairs, so that equal runs write equal files."""

    name: str
    chunk_is_a_file: bool
    """Whether the pairs of a chunk share one file, which makes the chunk size part of the dataset."""

    def names(self, index: int, stem: str) -> list[str]:
        """The names of the files that hold the pair with this index and stem."""
        ...

    def pair_files(self, chunk: Sequence[FinishedPair]) -> Iterator[list[FileContent]]:
        """The files of each of the consecutive pairs in ``chunk``, image first; a shared file is repeated."""
        ...

    def index_files(
        self, records: Callable[[], Iterable[Record]], read: Callable[[str], bytes]
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Name and content, in pieces, of each file that describes the whole dataset.

        ``records()`` starts a new pass over the manifest's lines in index order; ``read(name)`` returns the
        content of one of their files. Implementations stream, because a dataset may hold a million pairs.
        """
        ...


def stored_file(name: str, content: bytes) -> StoredFile:
    """The manifest's entry for a file with this ``content``."""
    return StoredFile(name, len(content), hashlib.sha256(content).hexdigest())


def json_line(values: Mapping[str, Any]) -> bytes:
    """``values`` as a line of JSON Lines, in UTF-8."""
    return (json.dumps(values, ensure_ascii=False) + "\n").encode("utf-8")
