"""The main job in one command: train, generate a dataset, measure, report.

    python -m training.demo [--output demo_output]

Makes colonoscopy phantoms (image, exact mask, prompt), trains Siamese-Diffusion on them for a few minutes
from the small base that ships with the pack, paints an image for every mask of a held-out set, and measures
how well a segmentation network trained on the phantoms alone finds the wanted masks in the painted images.

Written: OUTPUT/pairs (the synthetic pairs), OUTPUT/report.html, OUTPUT/contact_sheet.png and
OUTPUT/summary.json. --checkpoint FILE skips the training and reports on a finished model for 128 px.
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

import siamese_core
from siamese_core.contact_sheet import grid, outlined
from siamese_core.diffusers_backend.mask_sampling import DEFAULT_STEPS, Sampler
from siamese_core.files import write_bytes_atomic, write_text_atomic
from siamese_core.pairs.pair_files import Pair, find_pairs, load_pair
from siamese_core.pairs.pair_writer import png_bytes
from siamese_core.phantoms.phantom import write_phantoms
from siamese_core.settings import COUNT, GUIDANCE, SAMPLING_STEPS, SEED, Range, option

from . import generate, train
from .command_line.options import OptionError, add_flags, build, command_parser, run_command
from .command_line.stage_timing import timed
from .reports.run_report import Report, Sample, write_report
from .segmentation.judge import SegmenterSettings, predict_masks, train_segmenter
from .segmentation.scores import dice_scores

TINY_BASE = Path(siamese_core.__file__).parent / "assets" / "tiny-base.safetensors"
SIDE = 128
_SAMPLING_STEPS: dict[Sampler, int] = {**DEFAULT_STEPS, "ddim": 25}
_OWN_FILES = {"phantoms", "training", "pairs", "report.html", "contact_sheet.png", "summary.json"}


@dataclass(frozen=True)
class DemoSettings:
    """Size of the demo; the defaults take a few minutes on two CPU cores."""

    pairs: int = option(200, "phantoms to train on", COUNT)
    held_out: int = option(16, "held-out masks to paint", COUNT)
    steps: int = option(105, "steps of the Siamese training", COUNT)
    batch_size: int = option(
        4, "pairs a training step; the rest is in training/recipes/small_base.toml", COUNT
    )
    sampler: Sampler = option("ddim", "the paper's ddim, or dpmpp-2m, which needs fewer steps")
    sampling_steps: int | None = option(
        None,
        "sampling steps; default: 25 of ddim (the paper's 50 take twice the time), 15 of dpmpp-2m",
        SAMPLING_STEPS,
    )
    guidance: float = option(3.0, "guidance scale; the paper's 9 is for SD 1.5", GUIDANCE)
    segmenter_steps: int = option(
        SegmenterSettings().steps, "steps of the judging segmentation network", COUNT
    )
    seed: int = option(7, "seed of phantoms, training and sampling", SEED)
    threads: int = option(2, "CPU threads", Range(1, 1024))


def main(arguments: Sequence[str] | None = None) -> int:
    args, settings = _parse(arguments)
    output: Path = args.output
    _prepare(output)
    torch.set_num_threads(settings.threads)
    timings: dict[str, float] = {}
    with timed(timings, "phantoms"):
        write_phantoms(output / "phantoms" / "train", settings.pairs, seed=settings.seed, size=SIDE)
        write_phantoms(output / "phantoms" / "held_out", settings.held_out, seed=settings.seed + 1, size=SIDE)
    checkpoint: Path | None = args.checkpoint
    if checkpoint is None:
        with timed(timings, "siamese training"):
            checkpoint = _train(output, settings)
    with timed(timings, "sampling and export"):
        _paint(output, checkpoint, settings)
    with timed(timings, "mask adherence"):
        samples, real_dice = _measure(output, settings)
    adherence = float(np.mean([sample.adherence for sample in samples]))
    summary = {
        "seconds": round(sum(timings.values()), 1),
        "mask_adherence_dice": round(adherence, 4),
        "real_dice": round(real_dice, 4),
        "pairs": len(samples),
        "settings": {**asdict(settings), "checkpoint": str(args.checkpoint or "trained by this run")},
        "training": _read_json(output / "training" / "run.json"),
        "timings": {name: round(seconds, 1) for name, seconds in timings.items()},
    }
    write_text_atomic(output / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_report(output / "report.html", _report(output, summary, samples))
    write_bytes_atomic(output / "contact_sheet.png", png_bytes(_contact_sheet(samples[:8])))
    print(
        f"mask adherence {adherence:.3f} Dice over {len(samples)} pairs (the same network on real held-out "
        f"phantoms: {real_dice:.3f}), {summary['seconds']:.0f} s\nsee {output / 'report.html'}"
    )
    return 0


def _train(output: Path, settings: DemoSettings) -> Path:
    run = output / "training"
    status = train.main(
        [
            *("--config", str(Path(__file__).parent / "recipes" / "small_base.toml")),
            *("--pairs", str(output / "phantoms" / "train")),
            *("--base", str(TINY_BASE)),
            *("--output", str(run)),
            *("--prompt", "a photo of a polyp"),
            *("--resolution", str(SIDE)),
            *("--steps", str(settings.steps)),
            *("--batch-size", str(settings.batch_size)),
            *("--seed", str(settings.seed)),
            *("--sample-every", "0"),
        ]
    )
    if status:
        raise SystemExit(status)
    return run / "model.safetensors"


def _paint(output: Path, checkpoint: Path, settings: DemoSettings) -> None:
    generate.main(
        [
            *("--checkpoint", str(checkpoint)),
            *("--masks", str(output / "phantoms" / "held_out")),
            *("--output", str(output / "pairs")),
            *("--sampler", settings.sampler),
            *("--steps", str(settings.sampling_steps)),
            *("--guidance", str(settings.guidance)),
            *("--batch-size", "8"),
            *("--seed", str(settings.seed)),
        ]
    )


def _measure(output: Path, settings: DemoSettings) -> tuple[list[Sample], float]:
    """The report's samples with their adherence, and the segmenter's mean Dice on real held-out phantoms."""
    images, masks = _arrays(find_pairs(output / "phantoms" / "train"))
    segmenter_settings = SegmenterSettings(steps=settings.segmenter_steps)
    segmenter = train_segmenter(images, masks, segmenter_settings, seed=settings.seed)
    real = find_pairs(output / "phantoms" / "held_out")
    real_images, wanted = _arrays(real)
    synthetic, _ = _arrays(find_pairs(output / "pairs"))
    scores = dice_scores(predict_masks(segmenter, synthetic), wanted)
    samples = [
        Sample(pair.stem, wanted[i], real_images[i], synthetic[i], pair.prompt or "", float(scores[i]))
        for i, pair in enumerate(real)
    ]
    return samples, float(dice_scores(predict_masks(segmenter, real_images), wanted).mean())


def _arrays(pairs: Sequence[Pair]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    loaded = [load_pair(pair, size=None) for pair in pairs]
    return np.stack([pair.image for pair in loaded]), np.stack([pair.mask for pair in loaded])


def _report(output: Path, summary: dict[str, Any], samples: Sequence[Sample]) -> Report:
    log = output / "training" / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []
    return Report(
        title="Siamese-Diffusion demo",
        summary={
            "mask adherence (Dice)": summary["mask_adherence_dice"],
            "same network on real images": summary["real_dice"],
            "pairs": summary["pairs"],
            "seconds": summary["seconds"],
        },
        loss_log=rows,
        samples=samples,
        timings=summary["timings"],
        settings={**summary["settings"], **summary["training"]},
        notes=[
            "All data are generated phantoms; nothing here was learnt from patients.",
            "Mask adherence: a segmentation network is trained on the real training phantoms only; Dice is "
            "taken between what it finds in each synthetic image and the mask that was asked for.",
        ],
    )


def _read_json(path: Path) -> dict[str, Any]:
    """The record in ``path``, or nothing when there is none."""
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}


def _contact_sheet(samples: Sequence[Sample]) -> NDArray[np.uint8]:
    """Rows from the top: masks, real images, synthetic images, the same with the masks' outlines."""
    masks = [sample.mask.astype(np.uint8) * 255 for sample in samples]
    real = [sample.real for sample in samples if sample.real is not None]
    synthetic = [sample.synthetic for sample in samples]
    return grid([masks, real, synthetic, [outlined(sample.synthetic, sample.mask) for sample in samples]])


def _prepare(output: Path) -> None:
    """Make room: a folder that holds an earlier demo and nothing else is replaced, any other refused."""
    found = {path.name for path in output.iterdir()} if output.exists() else set()
    if found:
        if foreign := sorted(found - _OWN_FILES):
            raise OptionError(f"{output}: holds {foreign[0]}, which no demo wrote; give another --output")
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, DemoSettings]:
    parser = command_parser("demo", __doc__)
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder of the demo")
    parser.add_argument("--checkpoint", type=Path, help="report on this model instead of training one")
    add_flags(parser, DemoSettings)
    args = parser.parse_args(arguments)
    settings = build(DemoSettings, args, {})
    if settings.sampling_steps is None:
        settings = replace(settings, sampling_steps=_SAMPLING_STEPS[settings.sampler])
    return args, settings


if __name__ == "__main__":
    run_command(main)
