"""How close are synthetic images to the real ones? Metrics with intervals, copies, mask adherence, a report.

    python -m training.evaluate --real DIR --synthetic DIR --output DIR
    python -m training.evaluate --real DIR --synthetic NAME=DIR NAME=DIR ... --output DIR

DIR holds pairs (prompt.json, or images/ and masks/) or, for metrics that need no masks, images alone. Each
metric is reported with its 95 % interval and the number of images it is based on:

- FID, KID, CMMD, precision and recall on the features of each extractor;
- CLIP-I, LPIPS and diversity within one mask, if both folders hold pairs: a synthetic image belongs to the
  mask that manifest.jsonl names, otherwise to the mask with the same name, with or without _<number> at the
  end;
- memorisation: distances to the nearest real image in feature and pixel space, compared with those among
  real images;
- mask adherence, with --segmenter-train DIR: Dice of a segmentation network trained on those real pairs, on
  the synthetic images against the masks they were generated for, and on --real-test DIR for comparison.

Several methods, each given as NAME=DIR, are shown side by side: a table with a row per method, one t-SNE of
all images with a panel per method, and the same masks for each method. --rating-study DIR, written by
training.rate score, adds the raters' means for the sources with these names.

Every metric's name includes the extractor; values of different extractors cannot be compared. --features
takes efficientnet-lite0 (installed with the package), inception (published FID and KID), clip (published CMMD
and CLIP-I) or the path of a TorchScript file that maps (B, 3, R, R) RGB in 0..1, R = --resolution, to (B, D);
separate several with commas. The default is inception if its weights are available, otherwise
efficientnet-lite0, plus clip if available. A TorchScript file is a program: use only files that you trust.
Weights that are neither cached nor given by path are downloaded only with --download.

Images can have any size and be greyscale: each is resized to the extractor's input (inception resizes by
itself), to --resolution for LPIPS, and to 32 px for pixel distances. Only features are kept in memory.

Output: OUTPUT/evaluation.json (all numbers, including those of each image), OUTPUT/report.html and its
figures as PNG; with several methods also OUTPUT/methods/NAME with the same files for each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from siamese_core.files import portable_stem, write_text_atomic
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
from .evaluation.cases import CasePictures, galleries
from .evaluation.compared_sets import UNNAMED, Found, check_study, compared_folders, find_sets
from .evaluation.measuring import Instruments, Measured, measure_all, prepared
from .evaluation.metrics.all_metrics import Results
from .evaluation.metrics.features import WeightPlaces, load_extractors, pixels
from .evaluation.metrics.image_sets import ImageSet
from .evaluation.metrics.names import metric_title
from .evaluation.metrics.paired import load_lpips
from .evaluation.report import EvaluationReport, write_evaluation
from .evaluation.side_by_side import Comparison, same_masks, write_comparison
from .pretrained.weight_files import WeightsError
from .rating.study_files import REAL
from .rating.study_results import StudyResults, read_results
from .segmentation.judge import SegmenterSettings

_HEADLINES = ("kid", "fid", "precision", "recall", "close-share", "adherence", "adherence-ratio")


@dataclass(frozen=True)
class EvaluateSettings(MaskOptions):
    """Folders to compare, and settings of the metrics."""

    real: Path = option(Path(), "real images that the model was trained on")
    synthetic: tuple[str, ...] = option((), "folder of synthetic images; for several methods, NAME=DIR each")
    output: Path = option(Path(), "folder for the results, new or empty")
    features: str | None = option(None, "feature extractors; default: the best available")
    inception_weights: Path | None = option(None, "torch-fidelity's Inception-v3 weights")
    clip: Path | None = option(None, "folder of a CLIP model in Hugging Face's layout")
    alexnet_weights: Path | None = option(None, "torchvision's AlexNet weights, for LPIPS")
    download: bool = option(False, "download missing weights")
    segmenter_train: Path | None = option(None, "real pairs to train the judge of mask adherence on")
    real_test: Path | None = option(None, "other real pairs, for comparison")
    segmenter_steps: int = option(1500, "training steps of the judge", COUNT)
    segmenter_resolution: int = option(
        128, "side of the judge's images in pixels, a multiple of 16", Range(16, 16384, multiple_of=16)
    )
    resolution: int = option(256, "side in pixels for LPIPS and TorchScript extractors", Range(64, 16384))
    bootstrap: int = option(1000, "bootstrap resamples for the intervals (FID: at most 100)", Range(100))
    batch_size: int = option(16, "images computed at once", COUNT)
    seed: int = option(42, "seed of resamples, subsets and the segmentation network", SEED)
    skip_corrupt: bool = option(False, "skip files that cannot be read, and list them")
    threads: int = option(0, "CPU threads; 0 uses torch's default", THREADS)
    rating_study: Path | None = option(
        None, "results of training.rate score, with sources named like the methods", added_later=True
    )


def main(arguments: Sequence[str] | None = None) -> int:
    settings = parse(arguments)
    _check_settings(settings)
    compared = compared_folders(settings.real, settings.synthetic)
    study = None
    if settings.rating_study is not None:
        study = read_results(settings.rating_study)
        for text in check_study(study, settings.rating_study, compared):
            note(text)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    places = WeightPlaces(settings.inception_weights, settings.clip, settings.download)
    extractors = load_extractors(settings.features, places, settings.resolution)
    lpips = _lpips(settings)
    found = find_sets(
        compared,
        settings.segmenter_train,
        settings.real_test,
        settings.mask_rule,
        skip_corrupt=settings.skip_corrupt,
    )
    settings.output.mkdir(parents=True, exist_ok=True)
    tools = Instruments(
        extractors=[*extractors, pixels()],
        lpips=lpips,
        judge=SegmenterSettings(steps=settings.segmenter_steps),
        judge_side=settings.segmenter_resolution,
        rule=settings.mask_rule,
        resolution=settings.resolution,
        batch_size=settings.batch_size,
        seed=settings.seed,
        device=Accelerator().device,
    )
    methods = {
        name: prepared(images, found.real.images, Results(settings.bootstrap, settings.seed), tools.rule)
        for name, images in found.synthetic.items()
    }
    timings: dict[str, float] = {}
    measure_all(found.real, methods, tools, timings, share_plane=not compared.is_single)
    reports = Reports(settings, found, methods, extractors[0].name, timings)
    if compared.is_single:
        reports.write_single(settings.output, UNNAMED)
    else:
        reports.write_side_by_side(study)
    for name, measured in methods.items():
        if not compared.is_single:
            print(f"\n{name}")
        _print_results(measured.results)
    print(f"see {settings.output / 'report.html'}")
    return 0


def _lpips(settings: EvaluateSettings) -> nn.Module | str:
    """The LPIPS network, or the reason why it is left out. Raises WeightsError if weights were asked for."""
    try:
        return load_lpips(settings.alexnet_weights, download=settings.download)
    except WeightsError as error:
        if settings.alexnet_weights or settings.download:
            raise
        return str(error)


@dataclass(frozen=True)
class Reports:
    """Writes the reports of a single method or of several side by side."""

    settings: EvaluateSettings
    found: Found
    methods: Mapping[str, Measured]
    main_extractor: str
    timings: Mapping[str, float]

    def write_single(self, folder: Path, name: str) -> None:
        """Write the report of the method ``name`` into ``folder``."""
        measured, results = self.methods[name], self.methods[name].results
        shown = self._shown([str(self.found.compared.synthetic[name])])
        notes = [*self.found.notes[REAL], *self.found.notes[name]]
        record = {
            "real": self._counted(self.found.real.images),
            "synthetic": self._counted(measured.images),
            "metrics": {name: asdict(estimate) for name, estimate in results.metrics.items()},
            "left_out": results.left_out,
            "notes": notes,
            "images": _image_rows(self.found.real.images, measured),
            "settings": shown,
            "seconds": self._seconds,
        }
        _write_json(folder / "evaluation.json", record)
        headlines = [name for name in results.metrics if name.partition("[")[0] in _HEADLINES]
        report = EvaluationReport(
            title="Synthetic against real images"
            if self.found.compared.is_single
            else f"{name} against real images",
            summary={
                "real images": len(self.found.real.images),
                "synthetic images": len(measured.images),
                **{metric_title(name): results.metrics[name].value for name in headlines},
            },
            metrics=results.metrics,
            left_out={metric_title(name): reason for name, reason in results.left_out.items()},
            projections=measured.projections,
            projected_by=self.main_extractor,
            neighbours=measured.neighbours,
            galleries=galleries(
                self._pictures(measured),
                measured.images.stems,
                measured.matches,
                measured.neighbours,
                measured.dice,
            ),
            timings=self.timings,
            settings={name: value for name, value in shown.items() if value is not None},
            notes=notes,
        )
        write_evaluation(folder, report)

    def write_side_by_side(self, study: StudyResults | None) -> None:
        """Write the report of all methods, and each method's own report into methods/NAME."""
        output, real = self.settings.output, self.found.real.images
        for name in self.methods:
            folder = output / "methods" / portable_stem(name)
            folder.mkdir(parents=True)
            self.write_single(folder, name)
        rated = study.sources if study else {}
        ratings = {name: rated[name] for name in (REAL, *self.methods) if name in rated}
        shown = self._shown(self.settings.synthetic)
        notes = [text for texts in self.found.notes.values() for text in texts]
        record = {
            "real": self._counted(real),
            "methods": {
                name: {
                    "synthetic": self._counted(measured.images),
                    "metrics": {key: asdict(value) for key, value in measured.results.metrics.items()},
                    "left_out": measured.results.left_out,
                }
                for name, measured in self.methods.items()
            },
            **({"ratings": {name: asdict(one) for name, one in ratings.items()}} if study else {}),
            "notes": notes,
            "settings": shown,
            "seconds": self._seconds,
        }
        _write_json(output / "evaluation.json", record)
        pictures = {name: (measured, self._pictures(measured)) for name, measured in self.methods.items()}
        comparison = Comparison(
            real_images=len(real),
            methods=self.methods,
            ratings=ratings,
            gallery=same_masks(pictures, real.stems),
            projected_by=self.main_extractor,
            timings=self.timings,
            settings={name: value for name, value in shown.items() if value is not None},
            notes=[*notes, "Copies, worst and best cases of each method: methods/NAME/report.html."],
        )
        write_comparison(output, comparison)

    @property
    def _seconds(self) -> dict[str, float]:
        return {name: round(seconds, 1) for name, seconds in self.timings.items()}

    def _shown(self, synthetic: Sequence[str]) -> dict[str, Any]:
        shown = plain(replace(self.settings, synthetic=tuple(synthetic)))
        if self.settings.rating_study is None:
            del shown["rating_study"]  # added later, so omitted from records unless it is used
        return shown

    def _pictures(self, measured: Measured) -> CasePictures:
        return CasePictures(self.found.real.images, measured.images, self.settings.mask_rule)

    @staticmethod
    def _counted(images: ImageSet) -> dict[str, Any]:
        return {"folder": str(images.root), "images": len(images)}


def _image_rows(real: ImageSet, measured: Measured) -> list[dict[str, Any]]:
    """The measurements of each synthetic image."""
    stems = real.stems
    rows: list[dict[str, Any]] = [{"stem": stem} for stem in measured.images.stems]
    for own, other in measured.matches.items():
        rows[own]["real"] = stems[other]
    for name, found in measured.neighbours.items():
        for i, row in enumerate(rows):
            row[f"nearest[{name}]"] = stems[found.index[i]]
            row[f"distance[{name}]"] = round(float(found.nearest[i]), 6)
            row[f"realism-distance[{name}]"] = round(float(found.realism[i]), 6)
    if measured.dice is not None:
        for row, score in zip(rows, measured.dice, strict=True):
            row["adherence"] = round(float(score), 6)
    return rows


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    write_text_atomic(path, json.dumps(record, indent=1) + "\n")


def _print_results(results: Results) -> None:
    for name, estimate in results.metrics.items():
        interval = "" if estimate.low is None else f"  [{estimate.low:.4g}, {estimate.high:.4g}]"
        print(f"{metric_title(name):44} {estimate.value:10.4g}{interval}")
    for name, reason in results.left_out.items():
        print(f"{metric_title(name):44} left out: {reason}")


def _check_settings(settings: EvaluateSettings) -> None:
    for name in ("real", "synthetic", "output"):
        if getattr(settings, name) in (Path(), ()):
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
