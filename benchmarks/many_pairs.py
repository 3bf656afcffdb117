"""Training on very many pairs: memory and time per step must not grow with their number.

    python -m benchmarks.many_pairs --json

Makes tiny random pairs, runs ``training.train`` on a tiny random base with few and with many of them, and
monitors the process during training. Linux only.

Keys, by number of pairs: anonymous_mib (peak anonymous memory during training), mapped_mib (mapped files,
which the system reclaims when it needs memory), step_seconds (median time between two steps),
preparation_seconds (checking and encoding, once). memory_growth_mib and step_ratio compare the two.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from siamese_core.architecture import TINY
from siamese_core.diffusers_backend.base_model import build_base, save_base

from .measure import argument_parser, note

SIDE = 64
"""The smallest resolution that the commands accept, in pixels."""

SOURCE_SIDE = 16  # side of the image files in pixels, small because a hundred thousand are written
STEPS = 60
SMALL = replace(
    TINY,
    unet=replace(TINY.unet, widths=(32, 32, 64, 64), layers_per_block=1),
    vae=replace(TINY.vae, widths=(32, 32, 32, 32)),
    text=replace(TINY.text, intermediate_size=32, num_layers=1),
    resolution=SIDE,
)


def write_pairs(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        image = rng.integers(0, 256, (SOURCE_SIDE, SOURCE_SIDE, 3), dtype=np.uint8)
        mask = ((image[:, :, 0] > 127) * 255).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{index:07d}.png", compress_level=1)
        Image.fromarray(mask).save(folder / "masks" / f"{index:07d}.png", compress_level=1)


def train(base: Path, pairs: Path, output: Path, threads: int) -> dict[str, float]:
    """Run a training command and return its figures."""
    command = [sys.executable, "-m", "training.train", "--base", base, "--pairs", pairs, "--output", output]
    command += ["--prompt", "a photo", "--steps", STEPS, "--batch-size", 2, "--resolution", SIDE]
    command += ["--sample-every", 0, "--log-every", 1, "--save-every", STEPS, "--threads", threads]
    start = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), stdout=sys.stderr)
    log, lines = output / "log.jsonl", 0
    moments: list[float] = []
    anonymous = mapped = 0
    while process.poll() is None:
        now = len(log.read_text().splitlines()) if log.exists() else 0
        if now > lines:
            lines = now
            moments.append(time.perf_counter())
            status = _status(process.pid)
            anonymous = max(anonymous, status["RssAnon"])
            mapped = max(mapped, status["RssFile"])
        time.sleep(0.005)
    if process.returncode:
        raise SystemExit(f"training.train ended with status {process.returncode}")
    return {
        "anonymous_mib": anonymous / 1024,
        "mapped_mib": mapped / 1024,
        "step_seconds": median(after - before for before, after in itertools.pairwise(moments)),
        "preparation_seconds": moments[0] - start,
    }


def _status(pid: int) -> dict[str, int]:
    """The resident memory figures of a process, in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__, threads=1)
    parser.add_argument("--few", type=int, default=1000, help="pairs in the small run")
    parser.add_argument("--many", type=int, default=100_000, help="pairs in the large run")
    args = parser.parse_args(arguments)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, base = save_base(build_base(SMALL), folder / "base", {}, "random")
        for count in (args.few, args.many):
            write_pairs(folder / f"pairs-{count}", count)
            note(f"{count} pairs written")
            result[str(count)] = train(base, folder / f"pairs-{count}", folder / f"run-{count}", args.threads)
            note(f"{count} pairs: {result[str(count)]}")
    few, many = result[str(args.few)], result[str(args.many)]
    result["memory_growth_mib"] = many["anonymous_mib"] - few["anonymous_mib"]
    result["step_ratio"] = many["step_seconds"] / few["step_seconds"]
    print(json.dumps(result, indent=1) if args.json else result)


if __name__ == "__main__":
    main()
