"""Where a dataset is kept: a folder, or an object store through fsspec. Files are whole or not there."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import filelock

from ..errors import UserError
from ..files import atomic_path, contained_path

_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "oss", "obs", "memory"}
"""Kinds of address at which a file appears whole. Elsewhere a killed upload leaves half of one."""


class StoreError(UserError):
    """A place for a dataset that cannot be used; the message names it and the fix."""


class DatasetStore(Protocol):
    """Files by their name below one root, with forward slashes. OSError comes of what the disk refuses."""

    place: str
    """The root as the user gave it."""

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a file, which then has all its content or, after an error or a kill, the old one."""
        ...

    def read(self, name: str) -> bytes: ...

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file, one at a time, with their ends."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file; None when it is not there."""
        ...

    def names(self, folder: str) -> list[str]:
        """The names, without the folder, of the files in ``folder``, sorted; none when it is not there."""
        ...

    def remove_torn(self) -> None:
        """Remove what this worker left half written when it was killed; its lock must be held."""
        ...

    def holds_others(self, folder: str) -> bool:
        """Whether there is anything besides ``folder``."""
        ...

    def taken(self, groups: Iterable[Sequence[str]]) -> Iterator[list[str]]:
        """Of each group of names those at which anything is, and whatever is no folder where one has to be.

        What appears in the meantime may be left out. Raises UserError for folders that lead out of the root.
        """
        ...

    def is_same(self, name: str, other: str) -> bool:
        """Whether two names are those of one file, as where A and a are the same."""
        ...

    def remove(self, name: str, tree: bool = False) -> None:
        """Remove a file or, as a ``tree``, a folder with all that it holds, if it is there."""
        ...

    def lock(self, name: str, wait: bool) -> contextlib.AbstractContextManager[bool]:
        """Hold the lock ``name`` until the block ends, or the process.

        Gives False when another process holds it, or waits for that one to end.
        """
        ...


def open_store(place: str, worker: str = "") -> DatasetStore:
    """The store at ``place``: a folder, or the address of an object store, such as ``s3://bucket/set``.

    ``worker`` names whoever writes, so that what it leaves half written when killed can be told from the
    files that others are writing.
    Raises StoreError for an address that cannot be opened or is of another kind.
    """
    if "://" not in place:
        return FolderStore(Path(place), worker)
    try:
        # Here, as a folder needs neither this package nor a host that has it.
        import fsspec

        system, root = fsspec.core.url_to_fs(place)
    except (ValueError, ImportError) as error:
        raise StoreError(f"{place}: this address cannot be opened ({error})") from error
    kinds = {system.protocol} if isinstance(system.protocol, str) else {*system.protocol}
    if "file" in kinds:
        return FolderStore(Path(root), worker)
    if not kinds & _OBJECT_STORES:
        raise StoreError(
            f"{place}: no object store, so that a killed run could leave half of a file there; mount it as a "
            "folder, or write to a folder and copy the dataset"
        )
    return ObjectStore(place, system, root.rstrip("/"))


class FolderStore:
    """A folder on a disk. No name leads out of it, symbolic links included."""

    def __init__(self, root: Path, worker: str = "") -> None:
        self.root = root
        self.place = str(root)
        self._scratch = f".tmp-{worker}-" if worker else ".tmp-"

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        path = self._entry(name)
        if not path.parent.is_dir():
            if not self.root.is_dir():  # a dataset that was removed while running stays removed
                raise FileNotFoundError(f"the folder '{self.root}' is no longer there")
            path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, self._scratch) as temporary, temporary.open("wb") as file:
            file.writelines(pieces)

    def read(self, name: str) -> bytes:
        return self._path(name).read_bytes()

    def size(self, name: str) -> int | None:
        try:
            return self._path(name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def lines(self, name: str) -> Iterator[bytes]:
        with self._path(name).open("rb") as file:
            yield from file

    def names(self, folder: str) -> list[str]:
        path = self._path(folder)
        if not path.is_dir():
            return []
        return sorted(
            entry.name for entry in os.scandir(path) if entry.is_file() and not entry.name.startswith(".")
        )

    def holds_others(self, folder: str) -> bool:
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"{self.root}: is a file; give a folder for the pairs")
        return self.root.exists() and any(path.name != folder for path in self.root.iterdir())

    def taken(self, groups: Iterable[Sequence[str]]) -> Iterator[list[str]]:
        for names in groups:
            folders = dict.fromkeys(str(parent) for name in names for parent in PurePosixPath(name).parents)
            blocked = [folder for folder in folders if self._is_blocked(folder)]
            # A link that leads nowhere is somebody's, too.
            yield [*blocked, *(name for name in names if os.path.lexists(self.root / name))]

    def is_same(self, name: str, other: str) -> bool:
        with contextlib.suppress(OSError):
            return name == other or (self.root / name).samefile(self.root / other)
        return False

    def remove(self, name: str, tree: bool = False) -> None:
        path = self._entry(name)
        if tree:
            if path.is_dir():
                shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self, name: str, wait: bool) -> Iterator[bool]:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path, blocking=wait)
        try:
            lock.acquire()
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def remove_torn(self) -> None:
        for torn in self.root.rglob(f"{self._scratch}*"):
            if torn.is_file():
                torn.unlink(missing_ok=True)

    def _entry(self, name: str) -> Path:
        """The path of ``name`` that is written or removed: of a link the link, never what it leads to."""
        self._path(name)
        return self._path(str(PurePosixPath(name).parent)) / PurePosixPath(name).name

    def _is_blocked(self, folder: str) -> bool:
        path = self.root / folder
        return os.path.lexists(path) and not self._path(folder).is_dir()

    def _path(self, name: str) -> Path:
        return contained_path(self.root, name)


class ObjectStore:
    """An object store, in which an object appears with its whole content by nature.

    It knows no lock that a killed process gives back: two workers with one shard would write the same bytes
    twice, which costs time and nothing else.
    """

    def __init__(self, place: str, system: Any, root: str) -> None:
        self.place = place
        self._system, self._root = system, root

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        path = self._path(name)
        self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
        # By way of a file of one's own: what is uploaded piece by piece appears torn after an error.
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "whole"
            with whole.open("wb") as file:
                file.writelines(pieces)
            self._system.put_file(str(whole), path)

    def read(self, name: str) -> bytes:
        content: bytes = self._system.cat_file(self._path(name))
        return content

    def lines(self, name: str) -> Iterator[bytes]:
        with self._system.open(self._path(name), "rb") as file:
            yield from file

    def size(self, name: str) -> int | None:
        try:
            return int(self._system.info(self._path(name))["size"])
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        path = self._path(folder)
        self._system.invalidate_cache()  # other workers write there too
        try:
            entries = self._system.ls(path, detail=True)
        except FileNotFoundError:
            return []
        return sorted(entry["name"].rpartition("/")[2] for entry in entries if entry["type"] == "file")

    def remove_torn(self) -> None:
        """There is nothing: an object that was not whole never appeared."""

    def holds_others(self, folder: str) -> bool:
        try:
            found = self._system.ls(self._root, detail=False)
        except FileNotFoundError:
            return False
        return any(name.rstrip("/").rpartition("/")[2] != folder for name in found)

    def taken(self, groups: Iterable[Sequence[str]]) -> Iterator[list[str]]:
        found: dict[str, set[str]] = {}
        for names in groups:
            for folder in {name.rpartition("/")[0] for name in names} - found.keys():
                found[folder] = set(self.names(folder))  # a question for each name would take hours
            yield [name for name in names if name.rpartition("/")[2] in found[name.rpartition("/")[0]]]

    def is_same(self, name: str, other: str) -> bool:
        return name == other

    def remove(self, name: str, tree: bool = False) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._system.rm(self._path(name), recursive=tree)

    @contextlib.contextmanager
    def lock(self, name: str, wait: bool) -> Iterator[bool]:
        yield True

    def _path(self, name: str) -> str:
        if ".." in name.split("/"):
            raise StoreError(f"The name '{name}' leads outside of '{self.place}'.")
        return f"{self._root}/{name}"
