"""Runs that make a dataset with a stand-in of the sampler."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from siamese_core.dataset_generation.finished_pairs import DatasetPlan
from siamese_core.dataset_generation.generation_run import PairMaker, SetRun, Shard
from siamese_core.dataset_generation.storage import open_store
from siamese_core.masks.random_transforms import TransformError
from siamese_core.pairs.export_formats import FORMATS, FinishedPair
from siamese_core.pairs.manifest import PairRecord
from tests.support.folders import read_tree

COUNT = 23
ONE = Shard()
PLAN = DatasetPlan(FORMATS["pairs"], count=COUNT, batch_size=4, chunk_size=8, settings={"seed": 1})


class Stopped(Exception):
    """What a caller raises to stop a run."""


@dataclass
class Work:
    """A stand-in of the sampler, whose image of pair i is noise of seed i; it keeps what it was asked for."""

    batches: list[list[int]] = field(default_factory=list)
    most: int = 100
    undrawable: tuple[int, ...] = ()

    def job(self, index: int) -> int:
        if index in self.undrawable:
            raise TransformError(f"no mask for {index}")
        return index

    def sample(self, jobs: Sequence[int]) -> list[FinishedPair]:
        if len(jobs) > self.most:
            raise MemoryError
        self.batches.append(list(jobs))
        return [self.pair(index, len(jobs)) for index in jobs]

    @staticmethod
    def pair(index: int, batch_size: int = 4) -> FinishedPair:
        rng = np.random.default_rng(index)
        record = PairRecord(
            index=index,
            stem=f"m_{index}",
            seed=index,
            mask_file="m.png",
            mask_digest="d",
            prompt="a polyp",
            sampler={"batch_size": batch_size},
            checkpoint_digest="c",
            run_id="r",
        )
        image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        return FinishedPair(record, image, rng.random((16, 16)) > 0.5, {"key": "value"})


def run_set(
    place: Path | str,
    work: Work | None = None,
    plan: DatasetPlan = PLAN,
    shard: Shard = ONE,
    on_pairs: Callable[[Sequence[FinishedPair], int], None] = lambda pairs, known: None,
    reads: Sequence[Path] = (),
    **how: bool,
) -> bool:
    work = work or Work()
    maker = PairMaker(
        work.job,
        work.sample,
        lambda error: isinstance(error, MemoryError),
        lambda size: None,
        stem=lambda index: f"m_{index}",
        reads=reads,
    )
    return SetRun(open_store(str(place), shard.name), plan, maker, shard, on_pairs).run(**how)


def stop_after(count: int) -> Callable[[Sequence[FinishedPair], int], None]:
    seen = 0

    def on_pairs(pairs: Sequence[FinishedPair], known: int) -> None:
        nonlocal seen
        seen += len(pairs)
        if seen >= count:
            raise Stopped

    return on_pairs


def files(folder: Path) -> dict[str, bytes]:
    """What a user sees of a dataset."""
    return {name: content for name, content in read_tree(folder).items() if not name.startswith(".run/")}


def manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]
