"""How near are synthetic images to the real ones? Metrics with intervals, copies, mask adherence, a report.

    python -m training.evaluate --real DIR --synthetic DIR --output DIR

DIR holds pairs (prompt.json, or images/ and masks/) or, where no mask is needed, images alone. Measured, each
with its 95 % interval and the number of images it rests on:

- FID, KID, CMMD, precision and recall on the features of each extractor;
- CLIP-I, LPIPS and diversity within one mask, where both folders hold pairs: a synthetic image belongs to the
  mask that manifest.jsonl names, else to the one it is called like, with or without _<number> at the end;
- memorisation: distances to the nearest real image in feature and pixel space, against those among real ones;
- with --segmenter-train DIR mask adherence: Dice of a segmentation network trained on those real pairs,
  on the synthetic images against the masks that were asked for, and on --real-test DIR for comparison.

The extractor stands in every metric's name; figures of different extractors do not compare. --features takes
efficientnet-lite0 (comes with the package), inception (published FID and KID), clip (published CMMD and
CLIP-I) or the path of a TorchScript file that maps (B, 3, R, R) RGB in 0..1, R = --resolution, to (B, D);
several with commas. Without it: inception if its weights are there, else efficientnet-lite0, and clip if
there. A TorchScript file is a program: name only files that you trust. Weights that are neither in the cache
nor named are fetched with --download only.

Images of any size and grey ones are taken: each is brought to the extractor's input (inception resizes by
itself), to --resolution for LPIPS, to 32 px for pixel distances. Features alone stay in memory.

Written: OUTPUT/evaluation.json (all numbers, also of each image), OUTPUT/report.html and its pictures as PNG.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from siamese_core.files import write_text_atomic
from siamese_core.pairs.pair_files import Pair, find_pairs
from siamese_core.settings import COUNT, SEED, THREADS, Range, option

from .command_line.mask_options import MaskOptions
from .command_line.notes import note
from .command_line.options import (
    OptionError,
    add_flags,
    command_parser,
    plain,
    require_empty,
    run_command,
    settings_of,
)
from .command_line.stage_timing import timed
from .evaluation.cases import CasePictures, galleries
from .evaluation.metrics.all_metrics import (
    Matching,
    Results,
    measure_adherence,
    measure_cosines,
    measure_distances,
    measure_lpips,
    measure_memorisation,
    same_mask,
)
from .evaluation.metrics.features import PIXELS, Extractor, WeightPlaces, extract, load_extractors, pixels
from .evaluation.metrics.image_sets import ImageSet, check_images, find_images, groups_by_mask, match_by_mask
from .evaluation.metrics.memorisation import Neighbours
from .evaluation.metrics.names import metric_title
from .evaluation.metrics.paired import load_lpips
from .evaluation.metrics.projection import FEWEST_PROJECTED, Projection, project
from .evaluation.report import EvaluationReport, write_evaluation
from .pretrained.weight_files import WeightsError
from .segmentation.judge import SegmenterSettings
from .statistics.intervals import Floats

_HEADLINES = ("kid", "fid", "precision", "recall", "close-share", "adherence", "adherence-ratio")


@dataclass(frozen=True)
class EvaluateSettings(MaskOptions):
    """What is compared, and how."""

    real: Path = option(Path(), "real images: those that the model was trained on")
    synthetic: Path = option(Path(), "synthetic images")
    output: Path = option(Path(), "folder for the results, new or empty")
    features: str | None = option(None, "extractors; default: the best that are there")
    inception_weights: Path | None = option(None, "torch-fidelity's weights of Inception-v3")
    clip: Path | None = option(None, "folder of a CLIP model in Hugging Face's layout")
    alexnet_weights: Path | None = option(None, "torchvision's weights of AlexNet, for LPIPS")
    download: bool = option(False, "fetch weights that are missing")
    segmenter_train: Path | None = option(None, "real pairs to train the judge of mask adherence on")
    real_test: Path | None = option(None, "real pairs apart from those, for comparison")
    segmenter_steps: int = option(1500, "training steps of that network", COUNT)
    segmenter_resolution: int = option(
        128, "side of its images in pixels, a multiple of 16", Range(16, 16384, multiple_of=16)
    )
    resolution: int = option(256, "side in pixels for LPIPS and TorchScript extractors", Range(64, 16384))
    bootstrap: int = option(1000, "resamples of the intervals (FID: at most 100)", Range(100))
    batch_size: int = option(16, "images computed at once", COUNT)
    seed: int = option(42, "seed of resamples, subsets and the segmentation network", SEED)
    skip_corrupt: bool = option(False, "leave out files that cannot be read, and list them")
    threads: int = option(0, "CPU threads, 0 leaves torch's choice", THREADS)


@dataclass(frozen=True)
class Sets:
    """The images to compare, the pairs for mask adherence (empty: not measured), and notes about them."""

    real: ImageSet
    synthetic: ImageSet
    train: Sequence[Pair]
    test: Sequence[Pair]
    notes: Sequence[str]


@dataclass
class Measured:
    """What came out: ``neighbours`` by feature space, ``dice`` (S,) where mask adherence was asked for."""

    results: Results
    matching: Matching | str
    neighbours: dict[str, Neighbours] = field(default_factory=dict)
    projections: Sequence[Projection] = ()
    dice: Floats | None = None
    timings: dict[str, float] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    settings = parse(arguments)
    _check_settings(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    places = WeightPlaces(settings.inception_weights, settings.clip, settings.download)
    extractors = load_extractors(settings.features, places, settings.resolution)
    lpips = _lpips(settings)
    sets = _find_sets(settings)
    settings.output.mkdir(parents=True, exist_ok=True)
    results = Results(settings.bootstrap, settings.seed)
    measured = Measured(results, _matching(sets.real, sets.synthetic))
    device = Accelerator().device
    for extractor in [*extractors, pixels()]:
        _measure_features(settings, sets, measured, extractor, device, first=extractor is extractors[0])
    _measure_pairs(settings, sets, measured, lpips, device)
    _write(settings, sets, measured, extractors[0].name)
    for name, estimate in results.metrics.items():
        interval = "" if estimate.low is None else f"  [{estimate.low:.4g}, {estimate.high:.4g}]"
        print(f"{metric_title(name):44} {estimate.value:10.4g}{interval}")
    for name, reason in results.left_out.items():
        print(f"{metric_title(name):44} left out: {reason}")
    print(f"see {settings.output / 'report.html'}")
    return 0


def _measure_features(
    settings: EvaluateSettings,
    sets: Sets,
    measured: Measured,
    extractor: Extractor,
    device: torch.device,
    *,
    first: bool,
) -> None:
    """All that rests on the features of one extractor; pixels serve memorisation alone."""
    name, results = extractor.name, measured.results
    with timed(measured.timings, f"features [{name}]"):
        real, synthetic = (
            extract(extractor, images.images, device=device, batch_size=settings.batch_size, label=label)
            for images, label in ((sets.real, "real"), (sets.synthetic, "synthetic"))
        )
    groups = same_mask(measured.matching, len(synthetic))
    with timed(measured.timings, f"metrics [{name}]"):
        if name != PIXELS:
            measure_distances(results, name, real, synthetic, groups)
            measure_cosines(results, name, real, synthetic, measured.matching)
        if found := measure_memorisation(results, name, real, synthetic, groups):
            measured.neighbours[name] = found
    if first and len(real) + len(synthetic) >= FEWEST_PROJECTED:
        print("placing the images with t-SNE", flush=True)
        with timed(measured.timings, "PCA and t-SNE"):
            measured.projections = project(real, synthetic, results.seed)


def _measure_pairs(
    settings: EvaluateSettings, sets: Sets, measured: Measured, lpips: nn.Module | str, device: torch.device
) -> None:
    """LPIPS, and mask adherence where it was asked for."""
    with timed(measured.timings, "LPIPS"):
        measure_lpips(
            measured.results,
            lpips,
            sets.real,
            sets.synthetic,
            measured.matching,
            side=settings.resolution,
            device=device,
            batch_size=settings.batch_size,
        )
    if not (sets.train and sets.synthetic.pairs):
        return
    with timed(measured.timings, "mask adherence"):
        measured.dice = measure_adherence(
            measured.results,
            sets.train,
            sets.synthetic.pairs,
            sets.test,
            SegmenterSettings(steps=settings.segmenter_steps),
            side=settings.segmenter_resolution,
            rule=settings.mask_rule,
            groups=same_mask(measured.matching, len(sets.synthetic.images)),
        )


def _find_sets(settings: EvaluateSettings) -> Sets:
    notes: list[str] = []
    checked: list[ImageSet] = []
    for name, folder in (("real", settings.real), ("synthetic", settings.synthetic)):
        check = check_images(
            find_images(folder, note), settings.mask_rule, skip_corrupt=settings.skip_corrupt
        )
        checked.append(check.images)
        notes.append(f"{len(check.images)} {name} images, {_sizes(check.sizes)}.")
        notes += [f"Skipped: {sentence}" for sentence in check.skipped]
        for text in check.notes:
            note(f"{folder}: {text}")
            notes.append(f"{name}: {text}.")
    train, test = (
        find_pairs(folder, default_prompt="", tell=note) if folder else []
        for folder in (settings.segmenter_train, settings.real_test)
    )
    if train and checked[1].pairs is None:
        raise OptionError(
            f"{settings.synthetic}: holds no masks, and mask adherence compares with them; give pairs, or "
            "leave --segmenter-train away"
        )
    return Sets(checked[0], checked[1], train, test, notes)


def _matching(real: ImageSet, synthetic: ImageSet) -> Matching | str:
    """Which images share a mask, or why that cannot be told."""
    for images in (real, synthetic):
        if images.pairs is None:
            return f"{images.root} holds no masks to pair images by"
    matches = match_by_mask(synthetic, real)
    pairs = [(own, other) for own, other in enumerate(matches) if other is not None]
    if not pairs:
        return f"no synthetic image is called like a mask of {real.root}"
    return Matching(pairs, groups_by_mask(synthetic, matches))


def _lpips(settings: EvaluateSettings) -> nn.Module | str:
    """The network of LPIPS, or the reason to leave it out; weights that were asked for must be there."""
    try:
        return load_lpips(settings.alexnet_weights, download=settings.download)
    except WeightsError as error:
        if settings.alexnet_weights or settings.download:
            raise
        return str(error)


def _write(settings: EvaluateSettings, sets: Sets, measured: Measured, main_extractor: str) -> None:
    results = measured.results
    shown = plain(settings)
    record = {
        "real": {"folder": str(sets.real.root), "images": len(sets.real)},
        "synthetic": {"folder": str(sets.synthetic.root), "images": len(sets.synthetic)},
        "metrics": {name: asdict(estimate) for name, estimate in results.metrics.items()},
        "left_out": results.left_out,
        "notes": sets.notes,
        "images": _image_rows(sets, measured),
        "settings": shown,
        "seconds": {name: round(seconds, 1) for name, seconds in measured.timings.items()},
    }
    write_text_atomic(settings.output / "evaluation.json", json.dumps(record, indent=1) + "\n")
    headlines = [name for name in results.metrics if name.partition("[")[0] in _HEADLINES]
    pictures = CasePictures(sets.real, sets.synthetic, settings.mask_rule)
    matches = {} if isinstance(measured.matching, str) else dict(measured.matching.pairs)
    report = EvaluationReport(
        title="Synthetic against real images",
        summary={
            "real images": len(sets.real),
            "synthetic images": len(sets.synthetic),
            **{metric_title(name): results.metrics[name].value for name in headlines},
        },
        metrics=results.metrics,
        left_out={metric_title(name): reason for name, reason in results.left_out.items()},
        projections=measured.projections,
        projected_by=main_extractor,
        neighbours=measured.neighbours,
        galleries=galleries(pictures, sets.synthetic.stems, matches, measured.neighbours, measured.dice),
        timings=measured.timings,
        settings={name: value for name, value in shown.items() if value is not None},
        notes=sets.notes,
    )
    write_evaluation(settings.output, report)


def _image_rows(sets: Sets, measured: Measured) -> list[dict[str, Any]]:
    """What is known of each synthetic image."""
    real = sets.real.stems
    rows: list[dict[str, Any]] = [{"stem": stem} for stem in sets.synthetic.stems]
    if not isinstance(measured.matching, str):
        for own, other in measured.matching.pairs:
            rows[own]["real"] = real[other]
    for name, found in measured.neighbours.items():
        for i, row in enumerate(rows):
            row[f"nearest[{name}]"] = real[found.index[i]]
            row[f"distance[{name}]"] = round(float(found.nearest[i]), 6)
            row[f"realism-distance[{name}]"] = round(float(found.realism[i]), 6)
    if measured.dice is not None:
        for row, score in zip(rows, measured.dice, strict=True):
            row["adherence"] = round(float(score), 6)
    return rows


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    (height, width), count = sizes.most_common(1)[0]
    rest = f" and {len(sizes) - 1} other sizes" if len(sizes) > 1 else ""
    return f"{width} x {height} pixels ({count} of them){rest}" if rest else f"{width} x {height} pixels"


def _check_settings(settings: EvaluateSettings) -> None:
    for name in ("real", "synthetic", "output"):
        if getattr(settings, name) == Path():
            raise OptionError(f"--{name} is needed")
    require_empty(settings.output, "give a new folder for the results")
    if settings.real_test and not settings.segmenter_train:
        raise OptionError("--real-test compares mask adherence: it needs --segmenter-train")


def parse(arguments: Sequence[str] | None) -> EvaluateSettings:
    parser = command_parser("evaluate", __doc__)
    parser.add_argument("--config", type=Path, help="TOML file with any of the settings")
    add_flags(parser, EvaluateSettings)
    args = parser.parse_args(arguments)
    return settings_of(EvaluateSettings, args)


if __name__ == "__main__":
    run_command(main)
