"""Two trainings in turns: a turn is ten steps, and between turns a training stands still."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from benchmarks.graph_training import STEPS_A_TURN, Training, _graph, running

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")

# A "training" of a step every five milliseconds that logs as ours do, a few steps at a time.
LOOP = """
import pathlib, sys, time
with open(sys.argv[1], "a") as log:
    while True:
        time.sleep(0.05)
        log.write("{}\\n" * 10)
        log.flush()
"""


def test_a_training_stands_still_between_its_turns(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with running([sys.executable, "-c", LOOP, log], tmp_path, threads=1) as process:
        training = Training("loop", process, log)
        for turn in range(1, 4):
            training.turn()
            time.sleep(0.2)
            assert log.read_text().count("\n") == turn * STEPS_A_TURN
        assert len(training.wall) == len(training.cpu) == 3
        assert all(0 < seconds < 5 for seconds in training.wall)
    assert process.returncode is not None


def test_a_training_that_ended_is_told(tmp_path: Path) -> None:
    with running([sys.executable, "-c", "pass"], tmp_path, threads=1) as process:
        process.wait()
        with pytest.raises(SystemExit, match="loop: no step"):
            Training("loop", process, tmp_path / "log.jsonl").turn()


def test_the_node_gets_its_defaults_but_for_what_both_are_told() -> None:
    required = {
        "model": ["MODEL", {}],
        "prompt": ["STRING", {"default": ""}],
        "steps": ["INT", {"default": 3000}],
    }
    node = _graph({"input": {"required": required}}, steps=40, batch=4)["2"]
    assert node["inputs"]["model"] == ["1", 0]
    assert node["inputs"]["prompt"] == ""
    assert (node["inputs"]["steps"], node["inputs"]["batch_size"]) == (40, 4)
