"""The whole workflow in one command, on bundled real images: train, generate, judge, report.

    python -m training.demo [--output demo_output]

Trains Siamese-Diffusion for a few minutes on 24 microscopy images of nuclei and their masks, starting from
the bundled small base, and generates an image for each of 24 held-out masks and for random masks. A
segmentation network trained on the 24 real pairs (the judge) then segments the synthetic images. Mask
adherence is the Dice between its result and the mask that the image was generated for; compare it with the
judge's Dice on the real held-out images. The report shows each synthetic image next to its nearest real
training image.

Output: OUTPUT/pairs and OUTPUT/random_pairs (the synthetic pairs for held-out and for random masks),
OUTPUT/report.html, OUTPUT/contact_sheet.png, OUTPUT/summary.json, the real pairs in OUTPUT/real, and
OUTPUT/demo.json, the list of files that a later demo in this folder replaces. --checkpoint FILE skips the
training and evaluates an existing model for 128 px.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_core import shipped
from siamese_core.contact_sheet import grid, outlined
from siamese_core.diffusers_backend.mask_sampling import DEFAULT_STEPS, Sampler, steps_in_words
from siamese_core.files import write_bytes_atomic, write_text_atomic
from siamese_core.json_lines import parse_json
from siamese_core.overlap import require_apart
from siamese_core.pairs.pair_files import PROMPT_FILE, find_pairs, load_pair
from siamese_core.pairs.pair_writer import png_bytes
from siamese_core.settings import COUNT, COUNT_OR_NONE, GUIDANCE, SAMPLING_STEPS, SEED, Range, option

from . import generate, train
from .command_line.options import OptionError, add_flags, build, command_parser, run_command
from .command_line.stage_timing import timed
from .evaluation.demo_findings import Findings, judge
from .reports.run_report import Report, Sample, Table, write_report
from .segmentation.judge import SegmenterSettings
from .segmentation.plan import evenly_chosen

SIDE = 128
# Masks are enlarged and bent, but not shrunk or rotated, which would leave empty margins.
_RANDOM_MASKS = (
    *("--mask-scale", "1.0", "1.5", "--mask-elastic", "0.05"),
    *("--mask-translate", "0", "--mask-rotate", "0"),
)
_SAMPLING_STEPS: dict[Sampler, int] = {**DEFAULT_STEPS, "ddim": 25}
_SHOWN = 8  # columns of the contact sheet
_LIST = "demo.json"


@dataclass(frozen=True)
class DemoSettings:
    """Settings of the demo; with the defaults it takes at most ten minutes on two CPU cores."""

    pairs: int = option(24, "real pairs to train on, out of the 24 bundled", Range(2, 24))
    held_out: int = option(24, "held-out real masks to generate for, out of the 24 bundled", Range(1, 24))
    random_masks: int = option(1, "random masks derived from each training mask", COUNT_OR_NONE)
    steps: int = option(180, "steps of Siamese training", COUNT)
    batch_size: int = option(
        4, "pairs per training step; other settings are in training/recipes/small_base.toml", COUNT
    )
    sampler: Sampler = option("dpmpp-2m", "one of the samplers of training.generate")
    sampling_steps: int | None = option(
        None,
        f"sampling steps; default: {steps_in_words(_SAMPLING_STEPS)} (ddim: half the paper's)",
        SAMPLING_STEPS,
    )
    guidance: float = option(3.0, "guidance scale; the paper's 9 is for SD 1.5", GUIDANCE)
    segmenter_steps: int = option(
        SegmenterSettings().steps, "training steps of the segmentation network used as judge", COUNT
    )
    seed: int = option(7, "seed of training and sampling", SEED)
    threads: int = option(2, "CPU threads", Range(1, 1024))


def main(arguments: Sequence[str] | None = None) -> int:
    args, settings = _parse(arguments)
    output: Path = args.output
    if args.checkpoint is not None:
        require_apart([output], [args.checkpoint])
    _prepare(output)
    try:
        return _run(output, args.checkpoint, settings)
    finally:
        _note_files(output)


def _run(output: Path, given: Path | None, settings: DemoSettings) -> int:
    torch.set_num_threads(settings.threads)
    timings: dict[str, float] = {}
    train_folder, held_out_folder = output / "real" / "train", output / "real" / "held_out"
    _copy_pairs(shipped.TRAIN, train_folder, settings.pairs)
    _copy_pairs(shipped.HELD_OUT, held_out_folder, settings.held_out)
    checkpoint = given
    if checkpoint is None:
        with timed(timings, "siamese training"):
            checkpoint = _train(output, settings)
    with timed(timings, "generating"):
        _generate(checkpoint, held_out_folder, output / "pairs", settings)
        if settings.random_masks:
            drawn = ("--random-masks", "--per-mask", str(settings.random_masks), *_RANDOM_MASKS)
            _generate(checkpoint, train_folder, output / "random_pairs", settings, drawn)
    with timed(timings, "judging"):
        findings = judge(
            find_pairs(train_folder),
            find_pairs(held_out_folder),
            find_pairs(output / "pairs"),
            find_pairs(output / "random_pairs") if settings.random_masks else [],
            SegmenterSettings(steps=settings.segmenter_steps),
            side=SIDE,
            seed=settings.seed,
        )
    summary = {
        "seconds": round(sum(timings.values()), 1),
        **findings.figures(),
        "settings": {**asdict(settings), "checkpoint": str(given or "trained by this run")},
        "training": _read_json(output / "training" / "run.json"),
        "timings": {name: round(seconds, 1) for name, seconds in timings.items()},
    }
    samples = _samples(findings)
    write_text_atomic(output / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_report(output / "report.html", _report(output, summary, findings, samples))
    write_bytes_atomic(output / "contact_sheet.png", png_bytes(_contact_sheet(samples[: settings.held_out])))
    print(
        f"mask adherence {summary['mask_adherence_dice']:.3f} Dice over {len(findings.real)} held-out masks "
        f"(the same network on their real images: {summary['real_dice']:.3f}), {summary['seconds']:.0f} s\n"
        f"see {output / 'report.html'}"
    )
    return 0


def _copy_pairs(source: Path, target: Path, count: int) -> None:
    """Copy ``count`` of the bundled pairs at ``source``, evenly spaced to include all kinds of images."""
    entries = [json.loads(line) for line in (source / PROMPT_FILE).read_text("utf-8").splitlines()]
    chosen = [entries[place] for place in evenly_chosen(len(entries), count)]
    for folder in ("images", "masks"):
        (target / folder).mkdir(parents=True)
    for entry in chosen:
        for name in (entry["source"], entry["target"]):
            shutil.copyfile(source / name, target / name)
    write_text_atomic(target / PROMPT_FILE, "".join(json.dumps(entry) + "\n" for entry in chosen))


def _train(output: Path, settings: DemoSettings) -> Path:
    run = output / "training"
    status = train.main(
        [
            *("--config", str(Path(__file__).parent / "recipes" / "small_base.toml")),
            *("--pairs", str(output / "real" / "train")),
            *("--base", str(shipped.BASE)),
            *("--output", str(run)),
            *("--resolution", str(SIDE)),
            *("--steps", str(settings.steps)),
            *("--batch-size", str(settings.batch_size)),
            *("--seed", str(settings.seed)),
            *("--sample-every", "0"),
            "--balance-prompts",  # 3 of the 24 pairs are brightfield images
        ]
    )
    if status:
        raise SystemExit(status)
    return run / "model.safetensors"


def _generate(
    checkpoint: Path, masks: Path, output: Path, settings: DemoSettings, more: Sequence[str] = ()
) -> None:
    status = generate.main(
        [
            *("--checkpoint", str(checkpoint)),
            *("--masks", str(masks)),
            *("--output", str(output)),
            *("--sampler", settings.sampler),
            *("--steps", str(settings.sampling_steps)),
            *("--guidance", str(settings.guidance)),
            *("--batch-size", "8"),
            *("--seed", str(settings.seed)),
            *more,
        ]
    )
    if status:
        raise SystemExit(status)


def _samples(findings: Findings) -> list[Sample]:
    """The synthetic pairs for the report, those of the held-out masks first."""
    training = [load_pair(pair, size=None).image for pair in findings.train]
    real = [load_pair(pair, size=None).image for pair in findings.real]
    samples = []
    for place, pair in enumerate(findings.synthetic):
        loaded = load_pair(pair, size=None)
        samples.append(
            Sample(
                pair.stem,
                loaded.mask,
                real[place] if place < len(real) else None,
                loaded.image,
                pair.prompt or "",
                float(findings.dice[place]),
                nearest=training[findings.nearest[place]],
            )
        )
    return samples


def _report(output: Path, summary: dict[str, Any], findings: Findings, samples: Sequence[Sample]) -> Report:
    log = output / "training" / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []
    random = summary["random_mask_adherence_dice"]
    return Report(
        title="Siamese-Diffusion demo",
        summary={
            "mask adherence (Dice), held-out masks": summary["mask_adherence_dice"],
            "same network on the real images": summary["real_dice"],
            "adherence over that": _interval(summary["adherence_over_real"]),
            **({"mask adherence, random masks": random} if random is not None else {}),
            "real pairs to train on": len(findings.train),
            "synthetic pairs": summary["pairs"],
            "seconds": summary["seconds"],
        },
        loss_log=rows,
        samples=samples,
        tables={"Held-out masks by prompt": _prompt_table(summary["by_prompt"])},
        timings=summary["timings"],
        settings={**summary["settings"], **summary["training"]},
        notes=[
            "The real images are nuclei of the 2018 Data Science Bowl: BBBC038v1 of the Broad Bioimage "
            "Benchmark Collection, CC0.",
            "Mask adherence: a segmentation network is trained on the real training pairs only; Dice is "
            "taken between what it finds in each synthetic image and the mask that was asked for.",
            "The nearest training image is nearest by the features of EfficientNet-Lite0. A synthetic image "
            "that repeats it has copied it.",
        ],
    )


def _prompt_table(by_prompt: dict[str, dict[str, Any]]) -> Table:
    header = ("prompt", "masks", "real (Dice)", "synthetic (Dice)", "synthetic over real")
    rows = [
        (
            prompt,
            str(found["held_out"]),
            f"{found['real_dice']:.3f}",
            f"{found['mask_adherence_dice']:.3f}",
            _interval(found["adherence_over_real"]),
        )
        for prompt, found in by_prompt.items()
    ]
    return Table(header, rows, numeric=header[1:])


def _interval(estimate: Sequence[float | None] | None) -> str:
    """An estimate as text, such as ``0.93 [0.90, 0.96]``."""
    if estimate is None:
        return "none"
    value, low, high = estimate
    return f"{value:.2f}" if low is None or high is None else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``, or {} if the file does not exist."""
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}


def _contact_sheet(samples: Sequence[Sample]) -> NDArray[np.uint8]:
    """A sheet with rows of masks, real, synthetic, outlined synthetic, and nearest real images."""
    count = min(_SHOWN, len(samples))
    shown = [samples[place * len(samples) // count] for place in range(count)]
    return grid(
        [
            [sample.mask.astype(np.uint8) * 255 for sample in shown],
            [sample.real for sample in shown if sample.real is not None],
            [sample.synthetic for sample in shown],
            [outlined(sample.synthetic, sample.mask) for sample in shown],
            [sample.nearest for sample in shown if sample.nearest is not None],
        ]
    )


def _prepare(output: Path) -> None:
    """Empty ``output`` if it holds only files of an earlier demo; otherwise raise OptionError."""
    found = _files(output)
    if found:
        path = output / _LIST
        try:
            listed = {_LIST, *parse_json(path.read_text("utf-8"))["files"]} if path.is_file() else set()
        except (ValueError, KeyError, TypeError) as error:
            raise OptionError(f"{path}: damaged; give another --output") from error
        if foreign := sorted(found - listed):
            raise OptionError(
                f"{output}: holds {foreign[0]}, which is on no list of an earlier demo ({_LIST}); give "
                "another --output, or move away what is there"
            )
        for part in output.iterdir():
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part)
            else:
                part.unlink()
    output.mkdir(parents=True, exist_ok=True)


def _note_files(output: Path) -> None:
    """List the files that this demo has written, so that the next one may replace only those."""
    write_text_atomic(output / _LIST, json.dumps({"files": sorted(_files(output))}, indent=1) + "\n")


def _files(output: Path) -> set[str]:
    found = output.rglob("*") if output.exists() else ()
    return {path.relative_to(output).as_posix() for path in found if path.is_symlink() or not path.is_dir()}


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, DemoSettings]:
    parser = command_parser("demo", __doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("demo_output"), help="folder for the demo's results"
    )
    parser.add_argument("--checkpoint", type=Path, help="evaluate this model instead of training one")
    add_flags(parser, DemoSettings)
    args = parser.parse_args(arguments)
    settings = build(DemoSettings, args, {})
    if settings.sampling_steps is None:
        settings = replace(settings, sampling_steps=_SAMPLING_STEPS[settings.sampler])
    return args, settings


if __name__ == "__main__":
    run_command(main)
