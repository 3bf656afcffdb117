"""Running a plan: one job per network, variant and seed, scored on all test sets and recorded at its end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from siamese_core.contact_sheet import grid, outlined
from siamese_core.files import atomic_path, file_digest, portable_stem, write_text_atomic
from siamese_core.masks.resizing import resize_image, resize_mask
from siamese_core.pairs.pair_files import Pair
from siamese_core.resume_check import PAIR_ORDER_KEY, READ_DIFFERENTLY, check_record
from siamese_core.settings import COUNT, COUNT_OR_NONE, RATE, SEED, WEIGHT, Range, option, recorded

from ..command_line.mask_options import MaskOptions
from .batches import PairReader
from .fitting import FitSettings, Segmenter, fit, fit_settings, predictions, save_segmenter
from .mixing import mixed_order
from .networks.interface import SegmentationNetwork
from .networks.registry import NETWORKS, build_network, weights_by_network
from .plan import Experiment, Plan, PlanError
from .scores import dice_scores, iou_scores
from .training_sets import Folders, HeldOutSet, Sets, order_digest

_GIGABYTE = 10**9
_CASE_SIDE = 160  # largest side of a tile in a picture of cases, in px


@dataclass(frozen=True)
class RunSettings(MaskOptions):
    """Training and scoring of every run; None keeps the network's published value."""

    seeds: int = option(3, "runs per variant, with the seeds SEED, SEED + 1, ...", COUNT)
    seed: int = option(42, "first seed, for weights, data order and augmentation", SEED)
    steps: int | None = option(
        None, "optimiser steps; default: the network's own epochs, counted on the baseline", COUNT
    )
    batch_size: int | None = option(None, "pairs per step", COUNT)
    resolution: int | None = option(None, "side in pixels to which images are stretched", Range(32, 16384))
    learning_rate: float | None = option(None, "peak learning rate", RATE)
    pretrained: bool = option(False, "start from an ImageNet-pretrained backbone, downloaded if needed")
    weights: tuple[str, ...] | None = option(
        None,
        "weights to start from, of the backbone or the whole network; with several networks, NETWORK=FILE",
    )
    cases: int = option(6, "number of worst and best cases shown per variant; 0 for none", COUNT_OR_NONE)
    save_networks: bool = option(False, "keep the trained networks (.safetensors, in runs/)")
    cache_gb: float = option(
        2.0, "memory for decoded pairs, in GB; pairs beyond it are decoded each time they are used", WEIGHT
    )


@dataclass(frozen=True)
class Job:
    """One network to train on one variant with one seed, and the file that records its result."""

    experiment: str
    network: str
    variant: str
    seed: int
    fit: FitSettings
    record: Mapping[str, Any]
    file: Path

    @property
    def label(self) -> str:
        """The job's name for messages."""
        return f"{self.experiment}/{self.network}/{self.variant} seed {self.seed}"


@dataclass(frozen=True)
class Outcome:
    """A finished job: the scores of each test set's pairs, in order."""

    job: Job
    loss: float
    seconds: float
    stems: Mapping[str, Sequence[str]]
    dice: Mapping[str, Sequence[float]]
    iou: Mapping[str, Sequence[float]]

    @property
    def cases_file(self) -> Path:
        """The path of the picture of the job's worst and best cases, which may not exist."""
        return self.job.file.with_suffix(".png")


class Benchmark:
    """All jobs of a plan, checked before the first one runs."""

    def __init__(self, plan: Plan, settings: RunSettings, output: Path) -> None:
        """Read all folders of ``plan`` and check all jobs.

        Raises PlanError, PairError and FitError for jobs that cannot be run, and ResumeError for a job that
        ``output`` already has with other settings or data.
        """
        self._settings = settings
        folders = Folders(settings.mask_rule)
        self.sets: dict[str, Sets] = {one.name: folders.sets(one) for one in plan.experiments}
        self._changes = folders.changes
        networks = {network: None for one in plan.experiments for network in one.networks}
        self._weights = weights_by_network(settings.weights or (), [*networks])
        digests = {network: file_digest(path) for network, path in self._weights.items()}
        self.jobs = [
            job
            for experiment in plan.experiments
            for network in experiment.networks
            for job in self._jobs(experiment, network, digests.get(network), output)
        ]
        for job in self.jobs:
            if job.file.exists():
                check_record(job.file, json.loads(job.file.read_text("utf-8"))["record"], job.record)
        if self._weights or settings.pretrained:
            # Build the networks once, so that bad files and failing downloads are reported before hours of
            # work.
            for name in {job.network: None for job in self.jobs if not job.file.exists()}:
                self._new_network(name, settings.seed)

    @property
    def waiting(self) -> int:
        """The number of unfinished jobs."""
        return sum(not job.file.exists() for job in self.jobs)

    def run(self, device: torch.device) -> Iterator[Outcome]:
        """Run unfinished jobs and yield the outcomes of all jobs, in order. Interrupted jobs start over."""
        readers: dict[tuple[int, bool], PairReader] = {}

        def reader(side: int, own_masks: bool) -> PairReader:
            if (side, own_masks) not in readers:
                readers[side, own_masks] = PairReader(
                    side,
                    own_masks=own_masks,
                    rule=self._settings.mask_rule,
                    cache_bytes=round(self._settings.cache_gb * _GIGABYTE / 2),
                )
            return readers[side, own_masks]

        for job in self.jobs:
            if not job.file.exists():
                side = job.fit.resolution
                self._run(job, reader(side, False), reader(side, True), device)
            yield _read_outcome(job, self.sets[job.experiment].tests)

    def _jobs(self, experiment: Experiment, network: str, weights: str | None, output: Path) -> Iterator[Job]:
        sets = self.sets[experiment.name]
        given = self._settings
        fit_as = fit_settings(
            network,
            len(next(iter(sets.variants.values())).pairs),
            steps=given.steps,
            batch_size=given.batch_size,
            resolution=given.resolution,
            learning_rate=given.learning_rate,
        )
        folder = output / "runs" / portable_stem(experiment.name) / portable_stem(network)
        for seed in range(given.seed, given.seed + given.seeds):
            for name, variant in sets.variants.items():
                if variant.mixing.then_real > fit_as.steps:
                    raise PlanError(
                        f"variant {name!r}: then_real = {variant.mixing.then_real} exceeds the "
                        f"{fit_as.steps} steps of a run; lower it, or raise --steps"
                    )
                record = {
                    "network": network,
                    "seed": seed,
                    **asdict(fit_as),
                    "pretrained": self._pretrained(network),
                    "weights": weights,
                    **given.mask_record,
                    **({READ_DIFFERENTLY: self._changes} if self._changes else {}),
                    "real": variant.real,
                    "synthetic": variant.synthetic,
                    **recorded(variant.mixing),
                    "training_data": variant.fingerprints,
                    PAIR_ORDER_KEY: order_digest(variant.pairs),
                    "test_data": {test: held_out.fingerprint for test, held_out in sets.tests.items()},
                }
                file = folder / portable_stem(name) / f"seed-{seed}.json"
                yield Job(experiment.name, network, name, seed, fit_as, record, file)

    def _pretrained(self, network: str) -> bool:
        """Whether to fetch pretrained weights for the network's backbone; not if a file is given."""
        wanted = self._settings.pretrained and network not in self._weights
        return wanted and NETWORKS[network].has_backbone

    def _new_network(self, name: str, seed: int) -> SegmentationNetwork:
        """The network at the start of every run with ``seed``."""
        return build_network(
            name, seed=seed, pretrained=self._pretrained(name), weights=self._weights.get(name)
        )

    def _run(self, job: Job, reader: PairReader, scorer: PairReader, device: torch.device) -> None:
        started = time.perf_counter()
        settings, sets = self._settings, self.sets[job.experiment]
        network = self._new_network(job.network, job.seed)
        variant = sets.variants[job.variant]
        order = mixed_order(
            variant.mixing,
            variant.real,
            variant.synthetic,
            steps=job.fit.steps,
            batch_size=job.fit.batch_size,
            seed=job.seed,
        )
        loss = fit(
            network,
            reader,
            variant.pairs,
            job.fit,
            seed=job.seed,
            device=device,
            label=job.label,
            order=order,
        )
        segmenter = Segmenter(network, job.network, job.fit.resolution)
        scores = score(segmenter, scorer, sets.tests, device)
        job.file.parent.mkdir(parents=True, exist_ok=True)
        if settings.cases and job.seed == settings.seed:
            _write_cases(job, segmenter, scorer, sets, scores, settings.cases, device)
        if settings.save_networks:
            save_segmenter(job.file.with_suffix(".safetensors"), segmenter)
        found = {
            "record": job.record,
            "loss": loss,
            "seconds": round(time.perf_counter() - started, 1),
            "scores": scores,
        }
        write_text_atomic(job.file, json.dumps(found, indent=1) + "\n")  # last, since it marks completion


Scores = dict[str, list[dict[str, Any]]]
"""``stem``, ``dice`` and ``iou`` of every image, by test set."""


def score(
    segmenter: Segmenter, reader: PairReader, tests: Mapping[str, HeldOutSet], device: torch.device
) -> Scores:
    """Dice and IoU on every test image at its mask's own size, at which ``reader`` must keep masks."""
    scores: Scores = {}
    for name, test in tests.items():
        found = predictions(segmenter, reader, test.pairs, device)
        scores[name] = [
            {
                "stem": pair.stem,
                "dice": float(dice_scores(predicted[None], mask[None])[0]),
                "iou": float(iou_scores(predicted[None], mask[None])[0]),
            }
            for pair, ((_, mask), predicted) in zip(test.pairs, found, strict=True)
        ]
    return scores


def _write_cases(
    job: Job,
    segmenter: Segmenter,
    reader: PairReader,
    sets: Sets,
    scores: Scores,
    count: int,
    device: torch.device,
) -> None:
    """Write a picture of the worst and best test images by Dice, with true outlines above predicted ones."""
    ranked: list[tuple[float, Pair]] = sorted(
        (
            (row["dice"], pair)
            for name, rows in scores.items()
            for row, pair in zip(rows, sets.tests[name].pairs, strict=True)
        ),
        key=lambda entry: entry[0],
    )
    rows = []
    side = (min(_CASE_SIDE, segmenter.resolution),) * 2
    for chosen in (ranked[:count], ranked[::-1][:count]):
        pairs = [pair for _, pair in chosen]
        shown = [
            (resize_image(image, side), resize_mask(mask, side), resize_mask(predicted, side))
            for (image, mask), predicted in predictions(segmenter, reader, pairs, device)
        ]
        rows.append([outlined(image, mask) for image, mask, _ in shown])
        rows.append([outlined(image, predicted) for image, _, predicted in shown])
    with atomic_path(job.file.with_suffix(".png")) as temporary:
        Image.fromarray(grid(rows)).save(temporary)


def _read_outcome(job: Job, tests: Mapping[str, HeldOutSet]) -> Outcome:
    """The outcome in a finished job's file, with test sets and images in the order of ``tests``.

    Runs are compared image by image, and a run made earlier may have had the same images in another order.
    """
    found = json.loads(job.file.read_text("utf-8"))
    scores: Scores = {}
    for name, test in tests.items():
        by_stem = {row["stem"]: row for row in found["scores"][name]}
        scores[name] = [by_stem[pair.stem] for pair in test.pairs]

    def column(key: str) -> dict[str, list[Any]]:
        return {name: [row[key] for row in rows] for name, rows in scores.items()}

    return Outcome(job, found["loss"], found["seconds"], column("stem"), column("dice"), column("iou"))
