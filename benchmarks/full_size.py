"""One training step at the size of Stable Diffusion 1.5, with random weights: time and peak memory.

    python -m benchmarks.full_size --json

Writes a random base model to a temporary folder (7 GB), as a diffusers folder and as a single file, and runs
``training.train`` on each for one step of one 64 px pair, including checkpoint and export. Needs about 20 GB
of memory and of disk. Linux only.

Keys, for ``folder`` and ``file``: seconds and peak_gib of the whole command.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from siamese_core import shipped
from siamese_core.architecture import SD15
from siamese_core.diffusers_backend.base_model import build_base, save_base

from .measure import argument_parser, note

SIDE = 64


def write_random_base(folder: Path) -> None:
    """Write a base of random weights in both layouts; called in a separate process to free its memory."""
    save_base(build_base(SD15), folder, {}, "random")


def copy_one_pair(folder: Path) -> None:
    """Copy one of the bundled pairs to ``folder``."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        shutil.copy(shipped.TRAIN / kind / "fluorescence_1.png", folder / kind)


def one_step(base: Path, pairs: Path, output: Path, threads: int) -> dict[str, float]:
    """Run a training command of one step on ``base`` and return its figures."""
    command = [sys.executable, "-m", "training.train", "--base", base, "--pairs", pairs, "--output", output]
    command += ["--prompt", "a photo", "--steps", 1, "--batch-size", 1, "--resolution", SIDE]
    command += ["--sample-every", 0, "--threads", threads]
    start = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"training.train ended with status {os.waitstatus_to_exitcode(status)}")
    return {"seconds": time.perf_counter() - start, "peak_gib": usage.ru_maxrss / 2**20}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__, threads=0)
    args = parser.parse_args(arguments)
    result = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_one_pair(folder / "pairs")
        code = f"from benchmarks.full_size import *; write_random_base(Path({str(folder / 'base')!r}))"
        subprocess.run([sys.executable, "-c", code], check=True)
        note("base written")
        bases = {"file": folder / "base" / "base.safetensors", "folder": folder / "base" / "diffusers"}
        for layout, base in bases.items():
            result[layout] = one_step(base, folder / "pairs", folder / layout, args.threads)
            note(f"{layout}: {result[layout]}")
            shutil.rmtree(folder / layout)
    print(json.dumps(result, indent=1) if args.json else result)


if __name__ == "__main__":
    main()
