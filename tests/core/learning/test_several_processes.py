"""Training in two processes: the same gradients, one set of files, one clean end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from benchmarks.many_pairs import SIDE
from siamese_core.diffusers_backend.accelerate_engine import AccelerateEngine, ProcessesError
from siamese_core.learning.settings import BatchSettings
from tests.support.folders import read_tree
from tests.support.learning.gradients_worker import TOTAL_STEPS, training_data, write_gradients

ROOT = Path(__file__).parents[3]
AFTER_GATE = range(TOTAL_STEPS // 3 + 1, TOTAL_STEPS)


def launched(*arguments: object, processes: int) -> subprocess.Popen[str]:
    """Start ``python arguments`` in so many processes, as torchrun (and accelerate on GPUs) does."""
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--master-port=0"]
    rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, *launcher, *rendezvous, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def qualifying(k: int, process: int, processes: int, batch_size: int) -> int:
    """How many samples of a process take part in the augmentation."""
    batch = training_data().batch(42, k, BatchSettings(batch_size=batch_size), "cpu", process, processes)
    return int((batch.timesteps <= 200).sum())


def step_where(first: bool, second: bool) -> int:
    """A step after the gate in which the first and the second process have samples for the augmentation."""
    return next(
        k for k in AFTER_GATE if (qualifying(k, 0, 2, 2) > 0, qualifying(k, 1, 2, 2) > 0) == (first, second)
    )


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    before_gate = 5
    steps = [before_gate, *(step_where(*who) for who in ((True, True), (True, False), (False, True)))]
    finish(launched("-m", "tests.support.learning.gradients_worker", 2, tmp_path, *steps, processes=2))
    shares = {k: [torch.load(tmp_path / f"{k}-{process}.pt") for process in range(2)] for k in steps}
    write_gradients(4, tmp_path, steps)

    for k, (first, second) in shares.items():
        alone = torch.load(tmp_path / f"{k}-0.pt")
        assert alone.norm() > 0.1
        assert torch.equal(first, second)
        assert (first - alone).norm() <= 1e-5 * alone.norm()


def run_flags(pairs: Path, base: Path, output: Path, *more: object) -> list[object]:
    return [
        *("--pairs", pairs, "--base", base, "--output", output, "--resolution", SIDE, "--threads", 1),
        *("--prompt", "a photo", "--save-every", 2, "--log-every", 2, "--sample-every", 0, *more),
    ]


def logged(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_of_two_processes_writes_one_set_of_files_and_goes_on_in_one(
    tmp_path: Path, pairs: Path, single_base: Path
) -> None:
    command = ("-m", "training.train")
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    six = ("--steps", 6, "--batch-size", 8)
    # more samples a step than there are pairs
    output = finish(launched(*command, *run_flags(pairs, single_base, alone, *six), processes=1))
    assert "6 pairs at 64 px, 8 a step, steps 0 to 6 on 1 x cpu" in output

    process = launched(
        *command, *run_flags(pairs, single_base, shared, "--steps", 6, "--batch-size", 4), processes=2
    )
    while not (shared / "checkpoints" / "step-00000002").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    os.kill(worker_of_rank(process.pid, 1), signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert output.count("all saved; resume with the same command and --resume") == 1
    assert not (shared / "model.safetensors").exists()

    output = finish(launched(*command, *run_flags(pairs, single_base, shared, *six, "--resume"), processes=1))
    assert "resuming after step" in output
    assert [row["step"] for row in logged(shared)] == list(range(6))
    for found, wanted in zip(logged(shared), logged(alone), strict=True):
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    assert len(list((shared / "checkpoints").iterdir())) == 2
    assert (shared / "model.safetensors").exists()


def worker_of_rank(launcher: int, rank: int) -> int:
    """Process id of a worker that ``launcher`` started."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("finds the workers in Linux's /proc")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # a process that has ended since, or another user's
        if int(parent) == launcher and b"RANK=%d" % rank in environment:
            return int(folder.name)
    raise AssertionError(f"no worker of rank {rank}")


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_sharded_weights_are_refused_with_what_to_do(kind: DistributedType) -> None:
    accelerator = Accelerator(cpu=True)
    AccelerateEngine(accelerator)
    accelerator.state.distributed_type = kind
    try:
        with pytest.raises(ProcessesError, match=f"does not run under {kind.value}.*multi-GPU"):
            AccelerateEngine(accelerator)
    finally:
        accelerator.state.distributed_type = DistributedType.NO


@pytest.mark.slow
def test_two_processes_make_one_set_of_pairs(full_model: Path, pairs: Path, tmp_path: Path) -> None:
    places = ("--checkpoint", full_model, "--masks", pairs / "masks")
    numbers = ("--steps", 1, "--threads", 1, "--batch-size", 2, "--chunk-size", 2, "--per-mask", 2)
    sets = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        command = ("-m", "training.generate", *places, *numbers, "--output", folder)
        finish(launched(*command, processes=processes))
        sets[processes] = {
            name: content for name, content in read_tree(folder).items() if not name.startswith(".run/")
        }
    assert len(sets[1]) == 2 * 12 + 2
    assert sets[1] == sets[2]
