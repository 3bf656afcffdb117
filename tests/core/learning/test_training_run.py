"""The folder of a training run: what begins, what resumes, and who may."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from siamese_core.learning.checkpoints import TrainedState
from siamese_core.learning.engine import SingleProcess
from siamese_core.learning.optimiser_step import Diverged
from siamese_core.learning.step_loop import LoopSettings
from siamese_core.learning.training_run import TrainingRun
from siamese_core.resume_check import ResumeError

RECORD = {"command": "test", "steps": 4, "seed": 42}


def run_in(folder: Path, **others: Any) -> TrainingRun:
    return TrainingRun(folder, others.pop("record", RECORD), SingleProcess(), **others)


def small_state() -> TrainedState:
    network = nn.Linear(2, 1)
    return TrainedState([network], [torch.optim.SGD(network.parameters(), lr=0.1)])


def train(run: TrainingRun, steps: int = 4, part: str = "") -> tuple[str, int]:
    """The run's id, and after how many steps it went on."""
    state = small_state()
    with run.opened() as run_id:
        first = run.restored(state, steps, part)
        step = {"loss": torch.tensor(1.0)}
        run.train(lambda k: step, LoopSettings(steps, save_every=2), state, first, part=part)
    return run_id, first


def test_a_resumed_run_keeps_its_id_and_goes_on(tmp_path: Path) -> None:
    begun = train(run_in(tmp_path / "run"), 2)
    assert begun[1] == 0
    assert train(run_in(tmp_path / "run", resume=True)) == (begun[0], 2)

    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 4


def test_parts_have_checkpoints_and_logs_of_their_own(tmp_path: Path) -> None:
    train(run_in(tmp_path), 2, "vae")
    run = run_in(tmp_path, resume=True)

    assert run.restored(small_state(), 4, "vae") == 2
    assert run.restored(small_state(), 4, "unet") == 0
    assert (tmp_path / "vae.jsonl").exists()


def test_nothing_to_resume_is_said_and_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="no checkpoint to resume from"):
        train(run_in(tmp_path / "run", resume=True))
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_checkpoint_begins_again_with_the_same_settings_only(tmp_path: Path) -> None:
    with run_in(tmp_path).opened() as begun:
        pass
    with pytest.raises(ResumeError, match="seed was 42 and is now 7"):
        train(run_in(tmp_path, resume=True, record={**RECORD, "seed": 7}))

    assert train(run_in(tmp_path, resume=True)) == (begun, 0)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", None])
def test_a_damaged_run_file_is_written_anew_where_checkpoints_tell_what_the_run_is(
    content: str | None, tmp_path: Path
) -> None:
    begun, _ = train(run_in(tmp_path))
    path = tmp_path / "run.json"
    path.unlink() if content is None else path.write_text(content)
    notes: list[str] = []

    found, first = train(run_in(tmp_path, resume=True, note=notes.append))

    assert first == 4
    assert found != begun
    assert json.loads(path.read_text()) == {"run_id": found, **RECORD}
    assert notes == [f"{path} is damaged or missing; it is written anew, with a new run id"]


def test_a_damaged_run_file_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ResumeError, match=r"run\.json is damaged, and there is no checkpoint"):
        train(run_in(tmp_path, resume=True))


def test_a_run_is_not_resumed_to_fewer_steps_than_are_done(tmp_path: Path) -> None:
    train(run_in(tmp_path))
    with pytest.raises(ResumeError, match="--steps 3 is too low: 4 steps are done"):
        train(run_in(tmp_path, resume=True), steps=3)


def hold(folder: Path, held: Any) -> None:
    with run_in(folder).opened():
        held.set()
        time.sleep(60)  # no event to wait for: setting one waits for its waiters, of which a kill leaves none


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=hold, args=(tmp_path, held))
    other.start()
    try:
        assert held.wait(60)
        with pytest.raises(ResumeError, match="another process is training there"):
            train(run_in(tmp_path, resume=True))
        other.kill()
        other.join()
        train(run_in(tmp_path, resume=True))
    finally:
        other.kill()
        other.join()


def test_a_state_that_diverged_is_kept_apart(tmp_path: Path) -> None:
    def step(k: int) -> dict[str, torch.Tensor]:
        raise Diverged(k, "the loss is not finite")

    run = run_in(tmp_path)
    with run.opened(), pytest.raises(Diverged, match=r"not finite\. The state it ended in is in .*diverged"):
        run.train(step, LoopSettings(4), small_state(), 3)
    assert [path.name for path in (tmp_path / "diverged").iterdir()] == ["step-00000003"]
    assert not run.checkpoints().exists()
