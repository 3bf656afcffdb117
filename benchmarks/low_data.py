"""The low-data case on real images, from the published dataset to the tables, in one command.

    python -m benchmarks.low_data --source KVASIR-SEG --output DIR

200 pairs are drawn for training and all others kept for testing. A small base is trained on those 200 images
(it starts from the pack's), then mask-only and Siamese models on the
200 pairs, as training/recipes/ablations/small.toml says; each paints the 200 training masks. DIR/ablation has
the metrics, the mask adherence and the segmentation benchmark: real pairs alone against real + synthetic
ones, three seeds. Three hours on one CPU core; --resume goes on after an interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from siamese_core import shipped
from training import ablate, make_base, prepare
from training.command_line.options import run_command

_PLAN = Path(ablate.__file__).parent / "recipes" / "ablations" / "small.toml"
_BASE_FLAGS = (
    *("--prompt", "a photo of polyps", "--resolution", "128"),
    *("--vae-steps", "250", "--vae-batch-size", "8", "--vae-learning-rate", "5e-4"),
    *("--unet-steps", "900", "--unet-learning-rate", "7e-4"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="a dataset that training.prepare reads")
    parser.add_argument("--output", type=Path, required=True, help="folder for everything")
    parser.add_argument("--pairs", type=int, default=200, help="pairs to train on (default: 200)")
    parser.add_argument("--seed", type=int, default=42, help="seed of the split (default: 42)")
    parser.add_argument("--plan", type=Path, default=_PLAN, help="what is compared")
    parser.add_argument("--base", type=Path, help="a base that is there already, instead of training one")
    parser.add_argument("--resume", action="store_true", help="go on with what is missing")
    args = parser.parse_args(arguments)
    data, base, ablation = (args.output / name for name in ("data", "base", "ablation"))
    resume = ["--resume"] if args.resume else []

    if not (args.resume and data.exists()):
        split = ["--train", str(args.pairs), "--seed", str(args.seed), "--prompt", "a photo of polyps"]
        _run(prepare.main, [str(args.source), "--output", str(data), *split])
    single_file = args.base or base / "base.safetensors"
    if not args.base and not (args.resume and single_file.exists()):
        places = ["--images", str(data / "train"), "--output", str(base), "--init", str(shipped.BASE)]
        _run(make_base.main, [*places, *_BASE_FLAGS, *(resume if base.exists() else [])])
    places = ["--pairs", str(data / "train"), "--test", str(data / "test"), "--base", str(single_file)]
    _run(
        ablate.main,
        [str(args.plan), *places, "--output", str(ablation), *(resume if ablation.exists() else [])],
    )
    return 0


def _run(command: Callable[[Sequence[str]], int], words: Sequence[str]) -> None:
    if status := command(words):
        raise SystemExit(status)


if __name__ == "__main__":
    run_command(main)
