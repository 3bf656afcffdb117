"""Steps per second of Train Siamese in ComfyUI compared with ``training.train``, on the CPU. Linux only.

    python -m benchmarks.graph_training --comfyui .host/ComfyUI --python .host/venv/bin/python --json

Both train the bundled base on the sample pairs, with the same settings and without previews: the command in
this interpreter, the node in a ComfyUI server that the pack is linked into. They alternate in turns of ten
steps; one is stopped (SIGSTOP) while the other runs, so that other load on the machine affects both alike.
The first ten steps of each, and the loading and encoding before them, are not counted.

Keys: speed (steps per second, node over command, ratio of medians), speed_of_cpu_time (the same, by the CPU
time of the processes), seconds_per_step.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from siamese_core import shipped

from .measure import argument_parser, note

ROOT = Path(__file__).parents[1]
STEPS_A_TURN = 10  # the interval at which the node writes its log
SIDE = 128
RATE, SEED = 1e-4, 7
_MOST_SECONDS = 900.0
_POLL_SECONDS = 0.005

# Requests to the host must not go through a proxy.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Training:
    """A training process, stopped between its turns; each turn adds ten lines to ``log``."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    lines: int = 0
    used: float = 0.0

    def turn(self) -> None:
        """Run until ten more steps are logged, and record their times in ``wall`` and ``cpu``."""
        began = time.perf_counter()
        self.process.send_signal(signal.SIGCONT)
        self.lines = self._wait_for(self.lines + STEPS_A_TURN)
        self.process.send_signal(signal.SIGSTOP)
        self.wall.append(time.perf_counter() - began)
        used = cpu_seconds(self.process.pid)
        self.cpu.append(used - self.used)
        self.used = used

    def _wait_for(self, lines: int) -> int:
        end = time.monotonic() + _MOST_SECONDS
        while (found := self._logged()) < lines:
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{self.name}: no step for {_MOST_SECONDS:.0f} s, or its process ended")
            time.sleep(_POLL_SECONDS)
        return found

    def _logged(self) -> int:
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0


def cpu_seconds(pid: int) -> float:
    """CPU time used by the process, in seconds."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(command: Sequence[object], folder: Path, threads: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` as a process that is killed at the end of the block; its output goes to ``folder``."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "printed.txt").open("wb") as printed:
        process = subprocess.Popen(
            [*map(str, command)], cwd=ROOT, env=environment, stdout=printed, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@contextmanager
def headless(folder: Path, steps: int, batch: int, threads: int) -> Iterator[Training]:
    command = [
        *(sys.executable, "-m", "training.train", "--pairs", shipped.TRAIN, "--base", shipped.BASE),
        *("--output", folder / "run", "--steps", steps, "--resolution", SIDE, "--batch-size", batch),
        *("--learning-rate", RATE, "--seed", SEED, "--sample-every", 0, "--save-every", steps),
        *("--log-every", STEPS_A_TURN, "--threads", threads),
    ]
    with running(command, folder, threads) as process:
        yield Training("command", process, folder / "run" / "log.jsonl")


@contextmanager
def in_graph(
    comfyui: Path, python: Path, folder: Path, steps: int, batch: int, threads: int
) -> Iterator[Training]:
    for name in ("custom_nodes", "models", "input", "output", "user"):
        (folder / name).mkdir(parents=True)
    (folder / "custom_nodes" / "siamese-diffusion").symlink_to(ROOT)
    port = _free_port()
    command = [
        *(python.absolute(), comfyui.absolute() / "main.py", "--cpu", "--port", port, "--disable-api-nodes"),
        *("--base-directory", folder, "--database-url", f"sqlite:///{folder / 'user' / 'comfyui.db'}"),
    ]
    with running(command, folder, threads) as process:
        url = f"http://127.0.0.1:{port}"
        known = _wait_until_up(url, process)
        _post(f"{url}/prompt", {"prompt": _graph(known["SiameseTrain"], steps, batch)})
        yield Training("node", process, folder / "output" / "siamese_training" / "timed" / "log.jsonl")


def _graph(info: dict[str, Any], steps: int, batch: int) -> dict[str, Any]:
    """A graph that trains with the node's defaults for everything not set here."""
    widgets = {
        name: options["default"]
        for name, (_, options) in info["input"]["required"].items()
        if "default" in options
    }
    changes = {
        **{"name": "timed", "steps": steps, "resolution": SIDE, "batch_size": batch},
        **{"learning_rate": RATE, "seed": SEED, "save_every": steps, "preview_every": 0},
    }
    links = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2]}
    return {
        "1": {
            "class_type": "SiameseLoadCheckpoint",
            "inputs": {"checkpoint": f"{shipped.BASE.name} (bundled)"},
        },
        "2": {"class_type": "SiameseTrain", "inputs": {**widgets, **changes, **links}},
    }


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_until_up(url: str, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Wait for the host's server and return its object_info."""
    end = time.monotonic() + _MOST_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            with _DIRECT.open(f"{url}/object_info", timeout=60) as answer:
                return dict(json.load(answer))
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    raise SystemExit("ComfyUI did not start")


def _post(url: str, content: dict[str, Any]) -> None:
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    _DIRECT.open(request, timeout=60).close()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__, threads=1)
    parser.add_argument("--comfyui", type=Path, required=True, help="folder with ComfyUI's main.py")
    parser.add_argument("--python", type=Path, required=True, help="Python interpreter that runs ComfyUI")
    parser.add_argument("--turns", type=int, default=9, help="number of turns, ten steps each")
    parser.add_argument("--batch", type=int, default=4, help="pairs per step")
    args = parser.parse_args(arguments)
    steps = STEPS_A_TURN * (args.turns + 2)  # more than will be run
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        settings = (steps, args.batch, args.threads)
        trainings: list[Training] = []
        for begun in (
            headless(folder / "command", *settings),
            in_graph(args.comfyui, args.python, folder / "node", *settings),
        ):
            trainings.append(stack.enter_context(begun))
            trainings[-1].turn()  # includes everything before the first step
        for turn in range(args.turns):
            for training in trainings:
                training.turn()
                note(f"turn {turn + 1} of {args.turns}, {training.name}: {training.wall[-1]:.2f} s")
    command, node = trainings
    result = {
        "speed": median(command.wall[1:]) / median(node.wall[1:]),
        "speed_of_cpu_time": median(command.cpu[1:]) / median(node.cpu[1:]),
        "seconds_per_step": {
            training.name: median(training.wall[1:]) / STEPS_A_TURN for training in trainings
        },
        **{name: getattr(args, name) for name in ("turns", "batch", "threads")},
    }
    print(json.dumps(result, indent=1) if args.json else f"speed {result['speed']:.3f}")


if __name__ == "__main__":
    main()
