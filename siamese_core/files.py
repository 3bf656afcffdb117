"""File helpers: atomic writes, natural ordering, content digests and path containment."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import filelock

from .errors import UserError

_DIGITS = re.compile(r"(\d+)", re.ASCII)
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_RESERVED = re.compile(r"CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9]", re.IGNORECASE)
_LONGEST_NAME = 255  # bytes
_LONGEST_STEM = 120  # characters
_STEM_BYTES = 240  # which leaves room for a number and a suffix
_BLOCK_BYTES = 1 << 20
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""What some network file systems answer to a lock."""


class InUseError(UserError):
    """Another process is writing what is to be written; the message says where."""


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically: readers see either the old content or the new.

    The parent folder must exist. Raises OSError when the file cannot be written; ``path`` is
    then unchanged and no temporary file is left behind.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text_atomic(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8 with its newlines untranslated on every platform.

    Same guarantees and errors as :func:`write_bytes_atomic`.
    """
    write_bytes_atomic(path, text.encode("utf-8"))


@contextlib.contextmanager
def atomic_path(path: Path, prefix: str = ".tmp-") -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that replaces it when the block succeeds.

    For writers that need a path. The temporary file exists and is empty on entry; its name is ``prefix``, a
    random part, and the suffix of ``path``, by which some writers choose their format. On success it is
    flushed to the disk and renamed over ``path``; when the block raises, it is removed and ``path`` is
    unchanged. The parent folder must exist (OSError otherwise).
    """
    # Not tempfile.mkstemp, whose files ignore the umask and are private to their owner.
    temporary = path.with_name(f"{prefix}{secrets.token_hex(8)}{path.suffix}")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        _sync_file(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def replace_folder(temporary: Path, target: Path) -> None:
    """Sync every file of the folder ``temporary`` to the disk, then rename it to its sibling ``target``.

    An existing ``target`` is kept until the new folder is complete. Raises OSError, after which ``target`` is
    a complete folder or missing, never a partial one.
    """
    for path in temporary.rglob("*"):
        if path.is_file():
            _sync_file(path)
    # A folder cannot be renamed over a non-empty one.
    old = target.with_name(f".tmp-old-{target.name}")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    temporary.rename(target)
    _sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def whole_folder(target: Path, replace: bool = True) -> Iterator[Path]:
    """Yield an empty sibling of the folder ``target`` that replaces it when the block succeeds.

    When the block raises, the sibling is removed and ``target`` is unchanged. A sibling left by a killed
    process is removed on entry. Raises InUseError when another process is in such a block for ``target``,
    and OSError like :func:`replace_folder` and, unless ``replace``, when ``target`` is not empty at the end
    of the block.
    """
    if not replace:
        target = Path(os.path.realpath(target))  # rmdir does not work on a link
    temporary = target.with_name(f".tmp-{target.name}")
    with _alone(target):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            yield temporary
            if not replace and target.exists():
                target.rmdir()
            replace_folder(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Hold a lock beside ``target`` that only one process has, where the file system knows locks.

    Raises InUseError when another process has it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".tmp-{target.name}.lock")
    lock = filelock.FileLock(path, blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise InUseError(
            f"{target}: another process is writing it; wait for that one, or give another folder"
        ) from error
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file
            path.unlink()
        lock.release()


def resolved_place(path: Path) -> Path:
    """Where ``path`` itself lies: the links of its folder are followed, and not its own if it is a link."""
    return path.parent.resolve() / path.name


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that orders numbers inside names by value: ``img2`` before ``img10``.

    Case is ignored. Names that differ only in case or leading zeros compare equal, so that sorting keeps
    their order.
    """
    parts = (part for part in _DIGITS.split(name.casefold()) if part)
    return tuple((0, int(part), "") if _DIGITS.fullmatch(part) else (1, 0, part) for part in parts)


def portable_stem(name: str) -> str:
    """``name`` as a file stem that is valid on every system; forbidden characters become ``_``.

    Windows also forbids names such as CON or LPT1, and a dot or space at the end.
    """
    stem = _FORBIDDEN.sub("_", name.strip())[:_LONGEST_STEM]
    while len(stem.encode("utf-8", "surrogatepass")) > _STEM_BYTES:
        stem = stem[:-1]
    stem = stem.rstrip(". ") or "_"
    return stem + "_" if _RESERVED.fullmatch(stem.partition(".")[0]) else stem


def file_digest(path: Path) -> str:
    """SHA-256 of the content of ``path`` as 64 lower-case hexadecimal digits. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def contained_path(root: Path, relative: str | Path) -> Path:
    """Resolve ``relative`` under ``root`` to an absolute path, following symbolic links.

    The target need not exist. Raises UserError when the path leads outside ``root``, and for text that cannot
    be a path.
    """
    resolved_root = os.path.realpath(root)
    try:
        resolved = os.path.realpath(Path(resolved_root) / relative)
    except ValueError as error:  # a null character or a lone surrogate
        raise UserError(f"The path {str(relative)!r} cannot be one ({error}); correct it.") from error
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in Path(resolved).parts):
        raise UserError(
            f"The path '{str(relative)[:_LONGEST_STEM]}...' has a name of more than {_LONGEST_NAME} bytes, "
            "which no file system takes; shorten it."
        )
    try:
        inside = os.path.commonpath([resolved_root, resolved]) == resolved_root
    except ValueError:  # on Windows: different drives
        inside = False
    if not inside:
        raise UserError(
            f"The path '{relative}' leads outside of the folder '{root}'; give a path inside that folder."
        )
    return Path(resolved)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    # Windows cannot open a folder, and some network file systems refuse to sync one. The rename has happened
    # in any case; only its durability after a power failure is at stake.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
