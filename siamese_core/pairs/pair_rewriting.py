"""Exporting a dataset to another layout, pixel for pixel and with the records of its pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from ..errors import UserError, counted
from ..files import contained_path, file_digest, whole_folder
from ..json_lines import json_objects, text_in
from ..masks.folder_contents import Tell
from ..masks.foreground_rule import PLAIN_MASKS, ForegroundRule
from ..masks.mask_files import MASK_FOLDERS, first_subfolder
from ..masks.plausibility import MaskSurvey
from ..overlap import places_of, require_apart
from .export_formats import FinishedPair, PairFormat, StoredFile
from .export_formats.layout import FileContent, json_line, stored_file
from .image_files import ImageSurvey
from .manifest import MANIFEST, Manifest, PairRecord, record_of
from .pair_files import IMAGE_FOLDERS, PROMPT_FILE, Pair, find_pairs, load_pair


class ExportError(UserError):
    """A dataset that cannot be exported; the message names the file and the fix."""


@dataclass(frozen=True)
class Source:
    """Pairs in the order in which they will be written, and their manifest, if there is one."""

    pairs: Sequence[Pair]
    manifest: Manifest | None

    @property
    def keeps_indices(self) -> bool:
        """Whether the manifest has a distinct index for every pair; otherwise they are renumbered."""
        if self.manifest is None:
            return False
        known = self.manifest.indices()
        return len({known.get(pair.stem) for pair in self.pairs} - {None}) == len(self.pairs)


def find_source(path: Path, tell: Tell = lambda note: None) -> Source:
    """The pairs at ``path``, found by :func:`find_pairs` or else from the files named in ``manifest.jsonl``.

    This covers all layouts of this project in which image and mask are separate files. If the manifest covers
    all pairs, they come in its index order. Raises PairError, ManifestError and JsonLinesError like those
    readers.
    """
    root = path if path.is_dir() else path.parent
    manifest = Manifest(root / MANIFEST) if (root / MANIFEST).is_file() else None
    if manifest is None or path.is_file() or _can_be_found(path):
        pairs = find_pairs(path, default_prompt="", tell=tell)
    else:
        pairs = list(manifest.pairs())
    source = Source(pairs, manifest)
    if manifest is None or not source.keeps_indices:
        return source
    order = manifest.indices()
    return Source(sorted(pairs, key=lambda pair: order[pair.stem]), manifest)


def export_pairs(
    source: Source,
    kind: PairFormat,
    output: Path,
    *,
    chunk: int = 1,
    rule: ForegroundRule = PLAIN_MASKS,
    default_prompt: str = "",
    on_pair: Callable[[], object] | None = None,
) -> list[str]:
    """Write the pairs of ``source`` to the folder ``output`` as ``kind``, with a ``manifest.jsonl``.

    ``output``, which must be missing or empty, appears complete or not at all. ``chunk`` pairs at a time are
    in memory; layouts with shared files put them into one. ``default_prompt`` is used for pairs without a
    prompt in ``source`` or its manifest. Returns notes for the user on masks, images, and images that are not
    those of their line in the manifest, whose records are left out.

    Raises PairError for a pair that cannot be read, ExportError for colliding names and disk errors, and
    OverlapError when ``output`` overlaps the folders of ``source``.
    """
    require_apart([output], places_of(file for pair in source.pairs for file in (pair.image, pair.mask)))
    seen = _Seen(MaskSurvey(rule), ImageSurvey(), [])
    loaded = _finished_pairs(source, rule, default_prompt, seen)
    try:
        with whole_folder(output, replace=False) as folder, (folder / MANIFEST).open("wb") as lines:
            writer = _Writer(folder)
            for part in _chunks(loaded, chunk):
                finished = [pair for _, pair in part]
                for (line, pair), files in zip(part, kind.pair_files(finished), strict=True):
                    stored = [asdict(file) for file in writer.write(files, pair.record.stem)]
                    lines.write(json_line({**line, **asdict(pair.record), "files": stored}))
                    if on_pair is not None:
                        on_pair()
            lines.flush()
            records = partial(_records, folder / MANIFEST)
            for name, pieces in kind.index_files(records, lambda name: (folder / name).read_bytes()):
                with (folder / name).open("wb") as file:
                    file.writelines(pieces)
    except OSError as error:
        raise ExportError(
            f"{output}: not written ({error}); make room on the disk, grant access, or give another folder"
        ) from error
    return seen.notes()


@dataclass(frozen=True)
class _Seen:
    """What was noticed about the files of a source; ``replaced`` are images that are not the listed ones."""

    masks: MaskSurvey
    images: ImageSurvey
    replaced: list[Path]

    def notes(self) -> list[str]:
        notes = [*self.masks.notes(), *self.images.notes()]
        if self.replaced:
            notes.append(
                f"{counted(len(self.replaced), 'image')} (first: {self.replaced[0].name}) replaced since "
                f"{MANIFEST} was written: the records there are of others and left out"
            )
        return notes


class _Writer:
    """Writes the files of pairs; a file shared by consecutive pairs is written once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last: dict[str, tuple[bytes, StoredFile]] = {}

    def write(self, files: Iterable[FileContent], stem: str) -> list[StoredFile]:
        stored = {}
        for name, content in files:
            before, file = self._last.get(name, (None, None))
            if file is None or before is not content:
                file = self._new(name, content, stem)
            stored[name] = content, file
        self._last = stored
        return [file for _, file in stored.values()]

    def _new(self, name: str, content: bytes, stem: str) -> StoredFile:
        path = contained_path(self._folder, name)
        if path.exists():  # on a case-insensitive file system, for instance
            raise ExportError(f"{stem}: another pair's file is called '{name}' too; rename one of the pairs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return stored_file(name, content)


def _can_be_found(folder: Path) -> bool:
    if (folder / PROMPT_FILE).is_file():
        return True
    return all(first_subfolder(folder, names) is not None for names in (IMAGE_FOLDERS, MASK_FOLDERS))


def _finished_pairs(
    source: Source, rule: ForegroundRule, default_prompt: str, seen: _Seen
) -> Iterator[tuple[Mapping[str, Any], FinishedPair]]:
    """Load each pair, with its line of the source's manifest ({} without one); add its files to ``seen``."""
    keeps_indices = source.keeps_indices
    for index, pair in enumerate(source.pairs):
        loaded = load_pair(pair, size=None, rule=rule)
        seen.masks.add(pair.mask, loaded.reading)
        seen.images.add(pair.image)
        line = (source.manifest.line(pair.stem) if source.manifest else None) or {}
        if line and _is_replaced(pair.image, line):
            seen.replaced.append(pair.image)
            line = {}
        record = record_of(line, f"the line of '{pair.stem}'") if line else _unknown(pair, index)
        record = replace(record, prompt=pair.prompt or record.prompt or default_prompt)
        if not keeps_indices:
            record = replace(record, index=index)
        yield line, FinishedPair(record, loaded.image, loaded.mask, _png_text(pair.image))


def _is_replaced(image: Path, line: Mapping[str, Any]) -> bool:
    """Whether ``image`` has another content than the file of its name in its pair's ``line``, if any."""
    files = line.get("files")
    for file in files if isinstance(files, list) else ():
        name = text_in(file, "name") if isinstance(file, dict) else None
        if name is not None and PurePosixPath(name).name == image.name:
            return bool(file.get("sha256") != file_digest(image))
    return False


def _unknown(pair: Pair, index: int) -> PairRecord:
    """The record of a pair about which only its files are known."""
    return PairRecord(
        index=index,
        stem=pair.stem,
        seed=None,
        mask_file=pair.mask.name,
        mask_digest=file_digest(pair.mask),
        prompt="",
        sampler={},
        checkpoint_digest="",
        run_id="",
    )


def _png_text(path: Path) -> dict[str, str]:
    """The text chunks before the pixels of a PNG file, which hold the pair's record; {} for other formats."""
    with Image.open(path) as image:
        texts = image.info.items() if image.format == "PNG" else ()
        return {str(key): value for key, value in texts if isinstance(value, str)}


def _records(manifest: Path) -> Iterator[Mapping[str, Any]]:
    return (line.value for line in json_objects(manifest))


def _chunks(pairs: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk = []
    for pair in pairs:
        chunk.append(pair)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
