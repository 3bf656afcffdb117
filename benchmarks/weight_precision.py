"""What bfloat16 weights cost: losses of the same training with float32 weights and with rounded ones.

    python -m benchmarks.weight_precision --base FILE --json

Trains on the bundled nuclei from the same base, with the same pairs, timesteps and noise, once per way and
seed: float32; bfloat16 autocast; bfloat16 weights with stochastic rounding; and, if bitsandbytes is
installed, those with the 8-bit optimiser.

Keys for each way: loss (mean over the last third of the steps and all seeds) and by_seed; for each way but
the first also difference (from the first way's loss with the same seed, relative to it, mean over seeds) and
difference_deviation (its standard deviation). spread: standard deviation of the first way's loss over seeds,
relative to it, which shows the effect of another order of the same pairs.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from siamese_core import shipped
from siamese_core.json_lines import json_objects
from training import train

from .measure import argument_parser, note

_IN_BF16 = ("--mixed-precision", "bf16", "--weight-precision", "bf16")
WAYS: dict[str, tuple[str, ...]] = {
    "fp32": ("--mixed-precision", "no"),
    "bf16 autocast": ("--mixed-precision", "bf16"),
    "bf16 weights": _IN_BF16,
    "bf16 weights, 8-bit state": (*_IN_BF16, "--optimiser", "adamw8bit"),
}


def losses(flags: Sequence[object], folder: Path) -> list[float]:
    """Train in ``folder`` and return the loss of every step."""
    if train.main([*map(str, flags), "--output", str(folder)]):
        raise RuntimeError("the training was stopped")
    return [float(line.value["loss"]) for line in json_objects(folder / "log.jsonl")]


def compared(by_way: dict[str, list[float]]) -> dict[str, Any]:
    """The figures for ``by_way``, the losses by seed for each way; the first way is the reference."""
    first, *others = by_way
    wanted = by_way[first]
    result: dict[str, Any] = {way: {"loss": fmean(found), "by_seed": found} for way, found in by_way.items()}
    for way in others:
        relative = [a / b - 1 for a, b in zip(by_way[way], wanted, strict=True)]
        result[way] |= {"difference": fmean(relative), "difference_deviation": pstdev(relative)}
    return {**result, "spread": pstdev(wanted) / fmean(wanted)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--base", type=Path, default=shipped.BASE, help="base model to train on")
    parser.add_argument("--pairs", type=Path, default=shipped.TRAIN, help="folder of pairs")
    parser.add_argument("--resolution", type=int, default=64, help="image side in pixels")
    parser.add_argument("--steps", type=int, default=300, help="training steps per run")
    parser.add_argument("--batch-size", type=int, default=4, help="pairs per step")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="AdamW's learning rate")
    parser.add_argument(
        "--ways",
        nargs="+",
        choices=WAYS,
        help="which ways to compare; the first is the reference (default: all)",
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds per way")
    args = parser.parse_args(arguments)
    ways = args.ways or [way for way in WAYS if "adamw8bit" not in WAYS[way] or find_spec("bitsandbytes")]
    common: list[object] = ["--sample-every", 0, "--save-every", args.steps]
    for name in ("base", "pairs", "resolution", "steps", "batch_size", "learning_rate", "threads"):
        common += [f"--{name.replace('_', '-')}", getattr(args, name)]
    last = args.steps - args.steps // 3
    by_way: dict[str, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            for way in ways:
                found = losses([*common, "--seed", seed, *WAYS[way]], Path(folder) / f"{way}-{seed}")
                by_way[way].append(fmean(found[last:]))
                note(f"seed {seed}, {way}: {by_way[way][-1]:.5f}")
    result = {
        **compared(by_way),
        **{name: getattr(args, name) for name in ("steps", "resolution", "batch_size", "learning_rate")},
    }
    if args.json:
        print(json.dumps(result, indent=1))
        return
    for way in ways:
        difference = result[way].get("difference", 0.0)
        print(f"{way}: loss {result[way]['loss']:.5f}, {difference:+.2%} (spread {result['spread']:.2%})")


if __name__ == "__main__":
    main()
