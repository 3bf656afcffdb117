"""Generating very many pairs: memory and time per pair must not grow, and writing must cost almost nothing.

    python -m benchmarks.generation_scale --json

A stub sampler, which returns noise immediately, generates a small and a large dataset, each in its own
process; then the bundled model generates some pairs at 128 px with 50 steps. Linux only.

Keys, by number of pairs: peak_mib (resident memory), pair_milliseconds (median over tenths of the run),
last_to_first (time of the last tenth over the first). memory_ratio compares the two datasets. write_share:
time spent writing and listing over sampling time, with the real model.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from siamese_core import shipped
from siamese_core.dataset_generation.finished_pairs import DatasetPlan
from siamese_core.dataset_generation.generation_run import PairMaker, SetRun, Shard
from siamese_core.dataset_generation.mask_source import MaskSource, MaskUse
from siamese_core.dataset_generation.storage import open_store
from siamese_core.masks.mask_files import discover_masks
from siamese_core.masks.random_transforms import TransformSettings
from siamese_core.pairs.export_formats import FORMATS, FinishedPair
from siamese_core.pairs.manifest import PairRecord, record_text
from training import generate

from .measure import argument_parser, note

_SIDE = 64


def make_with_stand_in(folder: Path, count: int) -> dict[str, float]:
    """Make ``count`` pairs of random masks and noise; return the time and memory of this process."""
    files = discover_masks(shipped.EXAMPLE_MASKS)
    use = MaskUse((_SIDE, _SIDE), transforms=TransformSettings())
    masks = MaskSource(files, use, -(-count // len(files)), seed=1)

    def job(index: int) -> PairRecord:
        mask = masks.mask(index)
        record = PairRecord(
            index, mask.stem, index, mask.file.name, mask.digest, "", {}, "", "", mask.transform
        )
        drawn[index] = mask.written
        return record

    def stand_in(records: Sequence[PairRecord]) -> list[FinishedPair]:
        rng = np.random.default_rng(records[0].index)
        images = rng.integers(0, 256, (len(records), _SIDE, _SIDE, 3), dtype=np.uint8)
        pairs = [
            FinishedPair(record, image, drawn[record.index], record_text(record))
            for record, image in zip(records, images, strict=True)
        ]
        drawn.clear()
        return pairs

    drawn: dict[int, Any] = {}
    times = [time.perf_counter()]
    done = 0

    def on_pairs(pairs: Sequence[FinishedPair], known: int) -> None:
        nonlocal done
        done += len(pairs)
        if done >= len(times) * count / 10:
            times.append(time.perf_counter())

    plan = DatasetPlan(FORMATS["pairs"], count, batch_size=4, chunk_size=64, settings={})
    maker = PairMaker[PairRecord](job, stand_in, lambda error: False, lambda size: None, masks.stem, files)
    SetRun(open_store(str(folder)), plan, maker, Shard(), on_pairs).run()
    tenths = np.diff(times)
    return {
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "pair_milliseconds": 1000 * median(tenths) / (count / 10),
        "last_to_first": float(tenths[-1] / tenths[0]),
    }


def write_share(folder: Path, count: int, threads: int) -> float:
    """Time of everything except sampling, divided by the time of sampling, with the bundled model."""
    generating = 0.0
    sample = generate.PairSampler.sample
    begun: list[float] = []

    def timed(self: generate.PairSampler, jobs: Sequence[Any]) -> list[FinishedPair]:
        nonlocal generating
        start = time.perf_counter()
        begun.append(start)
        pairs = sample(self, jobs)
        generating += time.perf_counter() - start
        return pairs

    generate.PairSampler.sample = timed  # type: ignore[method-assign]
    places = ["--checkpoint", shipped.MODEL, "--masks", shipped.EXAMPLE_MASKS, "--output", folder]
    numbers = [
        "--per-mask",
        -(-count // len(discover_masks(shipped.EXAMPLE_MASKS))),
        "--guidance",
        3,
        "--threads",
        threads,
    ]
    generate.main([str(word) for word in (*places, *numbers, "--random-masks")])
    return (time.perf_counter() - begun[0]) / generating - 1


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--few", type=int, default=500, help="pairs in the small set (default: 500)")
    parser.add_argument("--many", type=int, default=10_000, help="pairs in the large set (default: 10000)")
    parser.add_argument(
        "--painted", type=int, default=32, help="pairs generated with the real model (default: 32)"
    )
    parser.add_argument(
        "--count", type=int, help="generate one dataset of this many pairs in this process, then stop"
    )
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if args.count:
            print(json.dumps(make_with_stand_in(Path(folder) / "set", args.count)))
            return
        result: dict[str, Any] = {}
        for count in (args.few, args.many):
            note(f"{count} pairs of the stand-in")
            command = [sys.executable, "-m", "benchmarks.generation_scale", "--count", str(count)]
            result[str(count)] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        result["memory_ratio"] = result[str(args.many)]["peak_mib"] / result[str(args.few)]["peak_mib"]
        note(f"{args.painted} pairs of the real model")
        result["write_share"] = write_share(Path(folder) / "generated", args.painted, args.threads)
    print(json.dumps(result, indent=None if args.json else 2))


if __name__ == "__main__":
    main()
