"""Storage of a dataset in a folder or, through fsspec, in an object store, with atomic writes."""

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
"""fsspec protocols with atomic uploads; elsewhere a killed upload leaves a partial file."""


class StoreError(UserError):
    """A storage place that cannot be used; the message names it and the fix."""


class DatasetStore(Protocol):
    """Files by name below one root; names use forward slashes. Methods raise OSError for disk errors."""

    place: str
    """The root as given by the user."""

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a file atomically: after an error or a kill it still has its old content."""
        ...

    def read(self, name: str) -> bytes: ...

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file, one at a time, with their line ends."""
        ...

    def size(self, name: str) -> int | None:
        """Size of a file in bytes, or None if it does not exist."""
        ...

    def names(self, folder: str) -> list[str]:
        """The sorted names, without the folder, of the files in ``folder``; empty if it does not exist."""
        ...

    def remove_torn(self) -> None:
        """Remove partial files that this worker left when it was killed; its lock must be held."""
        ...

    def holds_others(self, folder: str) -> bool:
        """Whether the root contains anything besides ``folder``."""
        ...

    def taken(self, groups: Iterable[Sequence[str]]) -> Iterator[list[str]]:
        """For each group of names, those that exist, plus parents that exist but are not folders.

        Files that appear during the call may be missed. Raises UserError for folders that lead outside the
        root.
        """
        ...

    def is_same(self, name: str, other: str) -> bool:
        """Whether two names refer to one file, as on case-insensitive file systems."""
        ...

    def remove(self, name: str, tree: bool = False) -> None:
        """Remove a file or, with ``tree``, a folder and everything in it, if it exists."""
        ...

    def lock(self, name: str, wait: bool) -> contextlib.AbstractContextManager[bool]:
        """Hold the lock ``name`` for the block; the process's end releases it, too.

        If another process holds it, wait for it or, without ``wait``, yield False.
        """
        ...


def open_store(place: str, worker: str = "") -> DatasetStore:
    """The store at ``place``: a folder, or the address of an object store, such as ``s3://bucket/set``.

    ``worker`` names the writer, by which partial files that it left when killed are told from files that
    others are writing. Raises StoreError for an address that cannot be opened or whose protocol is not
    supported.
    """
    if "://" not in place:
        return FolderStore(Path(place), worker)
    try:
        # Imported here, because folders do not need fsspec.
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
    """A folder on a disk. Names that lead outside of it, also through symbolic links, are refused."""

    def __init__(self, root: Path, worker: str = "") -> None:
        self.root = root
        self.place = str(root)
        self._scratch = f".tmp-{worker}-" if worker else ".tmp-"

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        path = self._entry(name)
        if not path.parent.is_dir():
            if not self.root.is_dir():  # do not recreate a dataset that was removed during the run
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
            # lexists, because a dangling link is also somebody's file.
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
        """The path to write or remove for ``name``: a link itself, never its target."""
        self._path(name)
        return self._path(str(PurePosixPath(name).parent)) / PurePosixPath(name).name

    def _is_blocked(self, folder: str) -> bool:
        path = self.root / folder
        return os.path.lexists(path) and not self._path(folder).is_dir()

    def _path(self, name: str) -> Path:
        return contained_path(self.root, name)


class ObjectStore:
    """An object store, in which an object appears atomically.

    There are no locks, since a killed process would not release them. Two workers on one shard write the same
    bytes twice, which only costs time.
    """

    def __init__(self, place: str, system: Any, root: str) -> None:
        self.place = place
        self._system, self._root = system, root

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        path = self._path(name)
        self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
        # Through a local file, because an upload in pieces would leave a partial object after an error.
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
        """Nothing to do: objects appear atomically."""

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
                found[folder] = set(self.names(folder))  # one request per name would take hours
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
