"""Generating a dataset chunk by chunk: resumable, shared among workers, in constant memory.

Pair i is a pure function of the dataset's settings and i, so any worker can make it, even repeatedly. The
division into batches does not depend on how the work is shared. Pairs are listed once their files are
complete.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar

from ..masks.random_transforms import TransformError
from ..overlap import require_apart
from ..pairs.export_formats import FinishedPair, StoredFile
from ..pairs.export_formats.layout import stored_file
from ..pairs.manifest import RUN_FOLDER
from .finished_pairs import DatasetError, DatasetLists, DatasetPlan, Line, remove_dataset
from .storage import DatasetStore, FolderStore

Job = TypeVar("Job")


@dataclass(frozen=True)
class Shard:
    """Worker ``index`` (from 0) of ``count``, which makes every ``count``-th chunk."""

    index: int = 0
    count: int = 1

    @property
    def name(self) -> str:
        return f"{self.index}-of-{self.count}"

    def part(self, index: int, count: int) -> Shard:
        """The share of worker ``index`` when this shard is divided among ``count`` workers."""
        return Shard(self.index * count + index, self.count * count)

    def chunks(self, plan: DatasetPlan) -> range:
        return range(self.index, plan.chunks, self.count)


@dataclass(frozen=True)
class PairMaker(Generic[Job]):
    """The functions that make pairs.

    ``job(i)`` describes pair i; it raises TransformError when no mask for it can be drawn. ``sample(jobs)``
    computes one pair per job as a batch. ``is_out_of_memory(error)`` tells whether a smaller batch may
    succeed after an exception from ``sample``; ``on_smaller_batch(n)`` is called before batches of n are
    tried. ``stem(i)`` is the name of pair i; ``reads`` are the folders and files that pairs are made from.
    """

    job: Callable[[int], Job]
    sample: Callable[[Sequence[Job]], Sequence[FinishedPair]]
    is_out_of_memory: Callable[[Exception], bool]
    on_smaller_batch: Callable[[int], None]
    stem: Callable[[int], str]
    reads: Sequence[Path]


@dataclass
class SetRun(Generic[Job]):
    """One worker's run.

    ``on_pairs(pairs, known)`` is called with the new pairs of each batch, or with the number of pairs in a
    chunk that existed already. Exceptions from it end the run; ``made`` is the number of this worker's pairs
    that are listed then, and ``skipped`` has the reason of each that was left out.
    """

    store: DatasetStore
    plan: DatasetPlan
    maker: PairMaker[Job]
    shard: Shard
    on_pairs: Callable[[Sequence[FinishedPair], int], None]

    def __post_init__(self) -> None:
        self._compute_batch = self.plan.batch_size
        self.made = 0
        self._skipped: dict[int, str] = {}

    @property
    def skipped(self) -> list[str]:
        return [reason for _, reason in sorted(self._skipped.items())]

    @cached_property
    def lists(self) -> DatasetLists:
        return DatasetLists(self.store, self.plan)

    def run(self, *, resume: bool = False, replace: bool = False) -> bool:
        """Make the missing pairs of this worker's share, and the final lists once the dataset is complete.

        With ``replace`` an existing dataset is removed first. Returns whether the dataset is complete. Raises
        DatasetError when the place holds something else, another run is working on the shard, files cannot be
        written, or a single sample does not fit into memory; ResumeError when the settings differ from those
        of the existing dataset; OverlapError when the output overlaps the input.
        """
        if isinstance(self.store, FolderStore):
            names = self.plan.form.names(0, self.maker.stem(0))
            written = {self.store.root / PurePosixPath(name).parent for name in names}
            require_apart(sorted(written), self.maker.reads)
        self.lists.check_files(self.maker.stem)
        if not replace:  # with several workers, another one may have begun the dataset
            self.lists.check_place(may_go_on=resume or self.shard.count > 1)
        lock = f"{RUN_FOLDER}/shard-{self.shard.name}.lock"
        with self._writing(), self.store.lock(lock, wait=False) as mine:
            if not mine:
                raise DatasetError(
                    f"{self.store.place}: another run is making shard {self.shard.name} of this dataset; "
                    "wait for it to end, or give another folder"
                )
            self.lists.remove_torn()
            if replace:
                remove_dataset(self.store)
            self.lists.begin()
            for chunk in self.shard.chunks(self.plan):
                self._make_chunk(chunk)
            return self.lists.finish()

    def list_unfinished(self) -> None:
        """Write manifest and index files for the pairs made so far, after a run was stopped."""
        with self._writing():
            self.lists.finish(incomplete=True)

    def _make_chunk(self, chunk: int) -> None:
        indices = self.plan.indices(chunk)
        lines = self.lists.whole_lines(chunk)
        done = self.made
        self.made = done + self._noted(lines)
        self.on_pairs((), len(lines))
        waiting: list[FinishedPair] = []
        for first in range(indices.start, indices.stop, self.plan.batch_size):
            batch = range(first, min(first + self.plan.batch_size, indices.stop))
            missing = [index for index in batch if index not in lines]
            if not missing:
                continue
            pairs, skipped = self._make_batch(batch)
            lines |= {line["index"]: line for line in skipped}
            new = [pair for pair in pairs if pair.record.index in missing]
            waiting += new
            # Pairs that share a file are written with the last of them.
            if not self.plan.form.chunk_is_a_file or batch.stop == indices.stop:
                lines |= {line["index"]: line for line in self._written(waiting)}
                waiting.clear()
                self.lists.write(chunk, [lines[index] for index in sorted(lines)])
                self.made = done + self._noted(lines)
            self.on_pairs(new, 0)

    def _noted(self, lines: Mapping[int, Line]) -> int:
        """The number of pairs in the listed ``lines`` of a chunk; keeps the reasons of those left out."""
        skipped = {index: str(line["skipped"]) for index, line in lines.items() if "skipped" in line}
        self._skipped |= skipped
        return len(lines) - len(skipped)

    def _make_batch(self, batch: range) -> tuple[list[FinishedPair], list[Line]]:
        jobs: dict[int, Job] = {}
        skipped: list[Line] = []
        for index in batch:
            try:
                jobs[index] = self.maker.job(index)
            except TransformError as error:  # one mask that cannot be drawn must not end a run of days
                skipped.append({"index": index, "skipped": str(error)})
        if not jobs:
            return [], skipped
        # Short batches and skipped pairs are filled up, so that all batches have the same size.
        filling = next(iter(jobs.values()))
        places = [jobs.get(batch.start + place, filling) for place in range(self.plan.batch_size)]
        pairs = self._sample(places)
        return [pairs[index - batch.start] for index in jobs], skipped

    def _sample(self, jobs: Sequence[Job]) -> list[FinishedPair]:
        while True:
            size = self._compute_batch
            try:
                pairs: list[FinishedPair] = []
                for start in range(0, len(jobs), size):
                    part = jobs[start : start + size]
                    full = [*part, *[part[-1]] * (size - len(part))]
                    pairs += self.maker.sample(full)[: len(part)]
                return pairs
            except Exception as error:
                if not self.maker.is_out_of_memory(error):
                    raise
                if size == 1:
                    raise DatasetError(
                        "out of memory with one image at a time; lower the resolution, or free memory"
                    ) from error
            self._compute_batch = (size + 1) // 2
            self.maker.on_smaller_batch(self._compute_batch)

    def _written(self, pairs: Sequence[FinishedPair]) -> Iterator[Line]:
        """Write the files of ``pairs`` and yield their lines for the list."""
        stored: dict[str, StoredFile] = {}
        contents = list(self.plan.form.pair_files(pairs))
        self.lists.announce(self.shard.name, dict.fromkeys(name for files in contents for name, _ in files))
        for pair, files in zip(pairs, contents, strict=True):
            for name, content in reversed(files):  # the image last, so that its presence implies the mask
                if name not in stored:
                    self.store.write(name, [content])
                    stored[name] = stored_file(name, content)
            yield {**asdict(pair.record), "files": [asdict(stored[name]) for name, _ in files]}

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DatasetError(
                f"{self.store.place}: could not be written ({error}); make room on the disk or mend the "
                "folder, and resume: pairs that were listed are safe"
            ) from error
