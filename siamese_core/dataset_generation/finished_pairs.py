"""The lists of a generated dataset: its settings, its finished pairs and their files.

Each chunk has a small list of its own below ``.run/``, which is replaced atomically after every batch, so
that a killed run has listed complete pairs only. These lists are authoritative: ``manifest.jsonl`` and the
format's index files are derived from them and never read.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import advice
from ..errors import UserError
from ..json_lines import parse_json
from ..pairs.export_formats import FORMATS, PairFormat
from ..pairs.export_formats.layout import json_line
from ..pairs.manifest import MANIFEST, RUN_FOLDER, record_of
from ..resume_check import ResumeError, check_record
from .storage import DatasetStore

Line = dict[str, Any]
"""A finished pair's record and ``files``, or a skipped pair's ``index`` and reason (``skipped``)."""

SKIPPED = "skipped.jsonl"
_SETTINGS, _PARTS, _WRITING, _INDEXES, _LOCK = (
    f"{RUN_FOLDER}/{name}" for name in ("settings.json", "parts", "writing", "indexes.json", "lists.lock")
)
_PARTIAL = ".partial"
_MOST_CHUNKS = 1_000_000  # each chunk has a list file
_FILE = re.compile(r"(?:(?!\.\.?/)[^/\0]+/)*[^/\0]+\.(?:png|tar)")


class DatasetError(UserError):
    """A dataset that cannot be generated as asked; the message names the place and the fix."""


@dataclass(frozen=True)
class DatasetPlan:
    """The plan of a dataset: ``count`` pairs in a format, and the ``settings`` that determine their content.

    Pairs are computed ``batch_size`` at a time and listed in chunks of ``chunk_size`` pairs, rounded up to
    whole batches.
    """

    form: PairFormat
    count: int
    batch_size: int
    chunk_size: int
    settings: Mapping[str, Any]

    @property
    def record(self) -> dict[str, Any]:
        """Everything that must be equal for a dataset to be resumed."""
        own = {"format": self.form.name, "pairs": self.count, "chunk_size": self.chunk_pairs}
        return {**own, "batch_size": self.batch_size, **self.settings}

    @property
    def chunk_pairs(self) -> int:
        return -(-self.chunk_size // self.batch_size) * self.batch_size

    @property
    def chunks(self) -> int:
        return -(-self.count // self.chunk_pairs)

    def indices(self, chunk: int) -> range:
        """The indices of the pairs in ``chunk``."""
        first = chunk * self.chunk_pairs
        return range(first, min(first + self.chunk_pairs, self.count))


@dataclass(frozen=True)
class SetState:
    """Progress of a dataset: counts of listed and of skipped pairs, and the numbers of unfinished chunks."""

    pairs: int
    skipped: int
    missing: Sequence[int]


def stored_plan(store: DatasetStore) -> DatasetPlan:
    """The plan of the dataset in ``store``. Raises DatasetError when it is missing or damaged."""
    try:
        settings = parse_json(store.read(_SETTINGS).decode("utf-8"))
        form = FORMATS[settings.pop("format")]
        numbers = [settings.pop(name) for name in ("pairs", "batch_size", "chunk_size")]
    except FileNotFoundError as error:
        raise DatasetError(
            f"{store.place}: no dataset of training.generate; its '{_SETTINGS}' is missing"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{store.place}/{_SETTINGS}: damaged ({error!r:.200}); give another folder"
        ) from error
    if not all(type(number) is int and number > 0 for number in numbers):
        raise DatasetError(
            f"{store.place}/{_SETTINGS}: damaged (its counts are {numbers}); give another folder"
        )
    count, batch_size, chunk_size = numbers
    plan = DatasetPlan(form, count, batch_size, chunk_size, settings)
    if plan.chunks > _MOST_CHUNKS:
        raise DatasetError(f"{store.place}/{_SETTINGS}: damaged ({plan.chunks} chunks); give another folder")
    return plan


def begun_plan(store: DatasetStore) -> DatasetPlan | None:
    """The plan of the dataset in ``store``, or None without a dataset. Raises DatasetError if damaged."""
    return None if store.size(_SETTINGS) is None else stored_plan(store)


def remove_dataset(store: DatasetStore) -> None:
    """Remove the dataset in ``store``, if there is one: the files in its lists and the lists, nothing else.

    This includes files that a killed run had announced and written but not yet listed.
    """
    if store.size(_SETTINGS) is None:
        return
    lists = DatasetLists(store, stored_plan(store))
    for name in (*lists.pair_files(), *lists.indexes()):
        store.remove(name)
    for folder in (_WRITING, _PARTS):
        store.remove(folder, True)
    # The settings go last, so that after a kill the rest is still recognised as a dataset and removed next
    # time.
    for name in (_INDEXES, _SETTINGS):
        store.remove(name)


@dataclass(frozen=True)
class DatasetLists:
    """The lists of one dataset. Methods raise DatasetError for damaged or foreign lists, and OSError."""

    store: DatasetStore
    plan: DatasetPlan

    def check_files(self, stem: Callable[[int], str]) -> None:
        """Raise DatasetError when a file that the dataset may write exists but is on none of its lists.

        Such files belong to somebody else and are never replaced. ``stem(i)`` is the name of pair i.
        """
        strangers = [*(self._strange_pairs(stem) if self.store.holds_others(RUN_FOLDER) else ())]
        strangers += self._strange_indexes([*_index_names(self.plan.form, self.store), SKIPPED, MANIFEST])
        lists = next(self.store.taken([[_SETTINGS, _INDEXES]]))
        lists += [f"{_PARTS}/{name}" for name in self.store.names(_PARTS)]
        if self.store.size(_SETTINGS) is None:
            strangers += lists
        self._refuse(strangers)

    def check_place(self, may_go_on: bool) -> None:
        """Check that the place is empty or, with ``may_go_on``, holds the same dataset.

        Raises DatasetError if not, and ResumeError when the settings differ from the dataset's.
        """
        place = self.store.place
        if self.store.size(_SETTINGS) is not None:
            if not may_go_on:
                raise DatasetError(
                    f"{place}: not empty, it holds a dataset that was begun before; {advice.DATASET_BEGUN}"
                )
            self._check_record()
        elif self.store.holds_others(RUN_FOLDER):
            beside = "" if may_go_on else advice.BESIDE_OTHERS
            raise DatasetError(f"{place}: not empty; give another folder{beside}")

    def begin(self) -> None:
        """Record the plan. Raises ResumeError when another worker has recorded a different one."""
        with self.store.lock(_LOCK, wait=True):
            if self.store.size(_SETTINGS) is None:
                self.store.write(_SETTINGS, [json_line(self.plan.record)])
            self._check_record()

    def remove_torn(self) -> None:
        """If there is a dataset, remove partial files that this worker left when it was killed."""
        if self.store.size(_SETTINGS) is not None:
            self.store.remove_torn()

    def whole_lines(self, chunk: int) -> dict[int, Line]:
        """The lines of ``chunk``, by index, whose files exist at the listed sizes; strikes out the others."""
        found = self._listed(chunk)
        lines = {index: line for index, line in found.items() if self._is_whole(line)}
        if len(lines) == len(self.plan.indices(chunk)):
            return lines
        if self.plan.form.chunk_is_a_file:
            lines = {}
        if len(lines) < len(found):
            # Announced, so that their files are still known as the dataset's if this run is killed.
            struck = (name for index, line in found.items() if index not in lines for name in _files(line))
            self.announce(f"struck-{chunk:08d}", dict.fromkeys((*self.announced(), *struck)))
            self.write(chunk, list(lines.values()))
            self.store.remove(_part(chunk, is_full=True))
        return lines

    def _listed(self, chunk: int) -> dict[int, Line]:
        for is_full in (True, False, True):  # another worker may replace the partial list by the full one
            if self.store.size(_part(chunk, is_full)) is not None:
                return {line["index"]: line for line in self._parsed(_part(chunk, is_full))}
        return {}

    def write(self, chunk: int, lines: Sequence[Line]) -> None:
        """Replace the list of ``chunk`` by ``lines``, which are in index order."""
        is_full = len(lines) == len(self.plan.indices(chunk))
        self.store.write(_part(chunk, is_full), map(json_line, lines))
        if is_full:
            self.store.remove(_part(chunk, is_full=False))

    def announce(self, worker: str, names: Collection[str]) -> None:
        """Record the files that ``worker`` is about to write, replacing its previous announcement."""
        self.store.write(f"{_WRITING}/{worker}.json", [json_line({"files": [*names]})])

    def announced(self) -> Iterator[str]:
        """The names of all announced files: each worker's latest batch, and the files of struck lines."""
        for name in self.store.names(_WRITING):
            yield from self._names_in(f"{_WRITING}/{name}", _FILE.fullmatch)

    def pair_files(self) -> Iterator[str]:
        """The names of all files of pairs, listed or announced."""
        yield from self.announced()
        for line in self.lines():
            yield from _files(line)

    def indexes(self) -> list[str]:
        """The names of the manifest and index files that :meth:`finish` has written or was about to write."""
        known = {name for form in FORMATS.values() for name in _index_names(form, self.store)}
        if self.store.size(_INDEXES) is not None:
            return list(self._names_in(_INDEXES, {*known, SKIPPED, MANIFEST}.__contains__))
        if self.store.size(MANIFEST) is None:
            return []
        return [*_index_names(self.plan.form, self.store), SKIPPED, MANIFEST]  # written by an older version

    def _names_in(self, name: str, fits: Callable[[str], object]) -> Iterator[str]:
        try:
            found = parse_json(self.store.read(name).decode("utf-8"))["files"]
            is_whole = all(type(file) is str and fits(file) for file in found)
        except (ValueError, KeyError, TypeError):
            is_whole = False
        if not is_whole:
            raise DatasetError(f"{self.store.place}/{name}: damaged; remove the file")
        yield from found

    def _stored(self) -> DatasetLists | None:
        """The lists of the existing dataset, which may be a different one; None without a dataset."""
        if self.store.size(_SETTINGS) is None:
            return None
        return DatasetLists(self.store, stored_plan(self.store))

    def _strange_pairs(self, stem: Callable[[int], str]) -> list[str]:
        """The existing files at names of this plan's pairs that are on no list of the existing dataset."""
        stored, found = None, dict[str, None]()
        every = (
            [name for index in self.plan.indices(chunk) for name in self.plan.form.names(index, stem(index))]
            for chunk in range(self.plan.chunks)
        )
        # Files are checked before the lists, because files that another worker writes meanwhile are announced
        # or listed by then.
        for chunk, there in enumerate(self.store.taken(every)):
            if there and stored is None:
                stored = self._stored()
            lines = stored._listed(chunk).values() if there and stored else ()
            own = {name for line in lines for name in _files(line)}
            found |= dict.fromkeys(name for name in there if name not in own)
        if found and stored:
            alike = defaultdict(list)
            for name in found:
                alike[_folded(name)].append(name)
            for listed in stored.pair_files():
                for name in alike.get(_folded(listed), ()):
                    if name in found and self.store.is_same(name, listed):
                        del found[name]
        return list(found)

    def _strange_indexes(self, names: Sequence[str]) -> list[str]:
        there, stored = next(self.store.taken([names])), self._stored()
        own = {*stored.indexes()} if there and stored else set()
        return [name for name in there if name not in own]

    def _refuse(self, strangers: Sequence[str]) -> None:
        if strangers:
            several = (
                f"{len(strangers)} files of the dataset are" if strangers[1:] else "a file of the dataset is"
            )
            raise DatasetError(
                f"{self.store.place}: {several} there already and on no list of an earlier run, the first is "
                f"'{strangers[0]}'; what others wrote is never replaced: give another folder, or move away "
                "what is in the way"
            )

    def finish(self, incomplete: bool = False) -> bool:
        """Write the manifest and the format's index files; return whether they were written.

        Unless ``incomplete``, that happens only when no chunk is missing. The manifest is written last, so
        its presence means that everything is there. Raises DatasetError when a foreign file is in the way.
        """
        with self.store.lock(_LOCK, wait=True):
            if not incomplete and self._missing():
                return False

            def records() -> Iterator[Line]:
                return (line for line in self.lines() if "skipped" not in line)

            skipped = [line for line in self.lines() if "skipped" in line]
            own = _index_names(self.plan.form, self.store)
            names = [*([SKIPPED] if skipped else []), *own, MANIFEST]
            self._refuse(self._strange_indexes(names))
            known = dict.fromkeys((*self.indexes(), *names))
            self.store.write(_INDEXES, [json_line({"files": [*known]})])
            if skipped:
                self.store.write(SKIPPED, map(json_line, skipped))
            for name, pieces in self.plan.form.index_files(records, self.store.read):
                self.store.write(name, pieces)
            self.store.write(MANIFEST, map(json_line, records()))
            return True

    def state(self) -> SetState:
        """The progress of the dataset."""
        is_skipped = Counter("skipped" in line for line in self.lines())
        return SetState(is_skipped[False], is_skipped[True], self._missing())

    def lines(self) -> Iterator[Line]:
        """The lines of all listed pairs in index order, including skipped ones."""
        # A set, since a killed run can leave the partial list of a chunk beside the full one.
        chunks = sorted({int(name[:8]) for name in self.store.names(_PARTS) if name[:8].isdigit()})
        return (line for chunk in chunks for line in self._listed(chunk).values())

    def _check_record(self) -> None:
        try:
            check_record(self.store.place, stored_plan(self.store).record, self.plan.record, what="dataset")
        except ResumeError as error:
            if not error.differences:
                raise
            raise ResumeError(f"{error}; {advice.OTHER_DATASET}", error.differences) from error

    def _missing(self) -> list[int]:
        parts = self.store.names(_PARTS)
        finished = {name.partition(".")[0] for name in parts if _PARTIAL not in name}
        return [chunk for chunk in range(self.plan.chunks) if f"{chunk:08d}" not in finished]

    def _parsed(self, name: str) -> Iterator[Line]:
        for number, text in enumerate(self.store.lines(name), 1):
            try:
                line = parse_json(text.decode("utf-8"))
                is_there = type(line["index"]) is int and 0 <= line["index"] < self.plan.count
                fits = is_there and ("files" not in line if "skipped" in line else self._is_pair(line))
            except (ValueError, TypeError, KeyError):  # ManifestError is a ValueError
                fits = False
            if not fits:
                raise DatasetError(
                    f"{self.store.place}/{name}: line {number} is damaged; restore the file, or move it away "
                    "with the files of its pairs, which are then made again"
                )
            yield line

    def _is_pair(self, line: Line) -> bool:
        """Whether a line is valid. For some invalid ones it raises ValueError, TypeError or KeyError."""
        record_of(line, "it")
        # Listed files are removed with the dataset, so a name that could be a folder is not accepted.
        named = [
            type(file["bytes"]) is int and type(file["sha256"]) is str and _FILE.fullmatch(file["name"])
            for file in line["files"]
        ]
        return all(named) and len(named) == (1 if self.plan.form.chunk_is_a_file else 2)

    def _is_whole(self, line: Line) -> bool:
        return all(self.store.size(file["name"]) == file["bytes"] for file in line.get("files", ()))


def _files(line: Line) -> list[str]:
    return [file["name"] for file in line.get("files", ())]


def _index_names(form: PairFormat, store: DatasetStore) -> list[str]:
    """The names of the format's index files."""
    return [name for name, _ in form.index_files(lambda: (), store.read)]


def _folded(name: str) -> str:
    """``name`` as compared by case-insensitive file systems that normalise Unicode."""
    return unicodedata.normalize("NFC", name).casefold()


def _part(chunk: int, is_full: bool) -> str:
    return f"{_PARTS}/{chunk:08d}{'' if is_full else _PARTIAL}.jsonl"
