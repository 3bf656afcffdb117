from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from siamese_core.learning.checkpoints import CheckpointStore, TrainedState
from siamese_core.learning.engine import SingleProcess
from siamese_core.learning.learning_rate import cosine_rate, set_learning_rate
from siamese_core.learning.step_loop import LoopSettings, run_steps
from siamese_core.resume_check import ResumeError, check_record
from siamese_core.seeds import generator, stream_seed
from siamese_core.stop_requests import Interrupted
from tests.support.commands import sigint_interrupts
from tests.support.folders import full_disk, read_tree

RECORD = {"command": "test", "widths": (32, 64), "steps": 6, "rate": 0.1}


class Run:
    """A linear model that learns a little noise; every draw of a step comes from its number."""

    def __init__(self, folder: Path, record: Mapping[str, Any] = RECORD, keep: int = 2) -> None:
        self.engine = SingleProcess()
        self.model = nn.Linear(3, 1)
        nn.init.constant_(self.model.weight, 0.5)
        nn.init.zeros_(self.model.bias)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.state = TrainedState([self.model], [self.optimizer])
        self.store = CheckpointStore(folder / "checkpoints", record, keep)
        self.log_path = folder / "log.jsonl"
        self.done: list[int] = []

    def step(self, k: int) -> dict[str, Tensor]:
        rng = generator(stream_seed(1, "test", k))
        loss = (self.model(torch.randn((4, 3), generator=rng)) - 1).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"loss": loss.detach()}

    def go(
        self,
        steps: int = 6,
        *,
        first: int = 0,
        save_every: int = 2,
        log_every: int = 10,
        before_step: Callable[[int], None] = lambda k: None,
        stopped_by: type[BaseException] | tuple[()] = (),
    ) -> None:
        def step(k: int) -> dict[str, Tensor]:
            before_step(k)
            return self.step(k)

        run_steps(
            step,
            LoopSettings(steps, save_every, log_every),
            engine=self.engine,
            state=self.state,
            checkpoints=self.store,
            log_path=self.log_path,
            first=first,
            after_step=self.done.append,
            stopped_by=stopped_by,
        )

    def weights(self) -> Tensor:
        return self.model.weight.detach().clone()

    def logged(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in self.log_path.read_text("utf-8").splitlines()]

    def names(self) -> list[str]:
        return sorted(path.name for path in self.store.folder.iterdir())


class Killed(BaseException):
    """Stands for a kill that gives no time to save anything."""


def kill_at(step: int) -> Callable[[int], None]:
    def before_step(k: int) -> None:
        if k == step:
            raise Killed

    return before_step


def send(number: int, at: int, times: int = 1) -> Callable[[int], None]:
    def before_step(k: int) -> None:
        if k == at:
            for _ in range(times):
                os.kill(os.getpid(), number)

    return before_step


def test_every_step_is_done_and_logged_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.go(7, save_every=3, log_every=2)

    assert [row["step"] for row in run.logged()] == list(range(7))
    assert all(row["loss"] > 0 for row in run.logged())
    assert run.done == list(range(1, 8))


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    run = Run(tmp_path, keep=2)
    run.go(7, save_every=2)

    assert run.names() == ["step-00000006", "step-00000007"]


def test_a_resumed_run_repeats_the_uninterrupted_one(tmp_path: Path) -> None:
    whole, first = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    whole.store.folder.parent.mkdir()
    first.store.folder.parent.mkdir()
    whole.go()
    with pytest.raises(Killed):
        first.go(before_step=kill_at(5))

    second = Run(tmp_path / "parts")
    step = second.store.restore(second.state)
    second.go(first=step)

    assert step == 4
    assert torch.equal(second.weights(), whole.weights())
    assert second.logged() == whole.logged()


def test_a_checkpoint_never_knows_more_than_the_log(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(Killed):
        run.go(save_every=2, log_every=100, before_step=kill_at(3))

    assert [row["step"] for row in run.logged()] == [0, 1]


def test_a_torn_last_line_of_the_log_is_replaced(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(Killed):
        run.go(log_every=1, before_step=kill_at(3))
    with run.log_path.open("a") as file:
        file.write('{"step": 3, "lo')

    again = Run(tmp_path)
    again.go(first=again.store.restore(again.state))

    assert [row["step"] for row in again.logged()] == list(range(6))


def test_a_new_run_starts_a_new_log(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.go(3)
    run.go(2)

    assert [row["step"] for row in run.logged()] == [0, 1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_finishes_the_step_and_saves_it(tmp_path: Path, number: signal.Signals) -> None:
    run = Run(tmp_path)
    before = signal.getsignal(number)

    with pytest.raises(Interrupted, match="after 3 steps") as stop:
        run.go(save_every=100, log_every=100, before_step=send(number, at=2))

    assert (stop.value.step, stop.value.signal_number) == (3, number)
    assert run.names() == ["step-00000003"]
    assert [row["step"] for row in run.logged()] == [0, 1, 2]
    assert run.done == [1, 2, 3]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("save_every", [100, 3])
def test_an_exception_that_stops_drops_its_step_and_saves_those_before(
    tmp_path: Path, save_every: int
) -> None:
    run, whole = Run(tmp_path / "run"), Run(tmp_path / "whole")
    for folder in ("run", "whole"):
        (tmp_path / folder).mkdir()
    with pytest.raises(Killed):
        run.go(save_every=save_every, before_step=kill_at(3), stopped_by=Killed)

    assert run.names() == ["step-00000003"]
    assert [row["step"] for row in run.logged()] == [0, 1, 2]
    again = Run(tmp_path / "run")
    again.go(first=again.store.restore(again.state))
    whole.go()
    assert torch.equal(again.weights(), whole.weights())
    assert again.logged() == whole.logged()


def test_an_exception_before_the_first_step_saves_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(Killed):
        run.go(before_step=kill_at(0), stopped_by=Killed)

    assert not run.store.exists()


def test_a_second_interrupt_does_not_wait_for_the_step(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with sigint_interrupts(), pytest.raises(KeyboardInterrupt):
        run.go(before_step=send(signal.SIGINT, at=1, times=2))

    assert run.done == [1]


def test_a_stop_during_the_last_step_lets_the_run_end_normally(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.go(4, before_step=send(signal.SIGTERM, at=3))

    assert run.done == [1, 2, 3, 4]
    assert "step-00000004" in run.names()


def test_a_torn_checkpoint_is_ignored_and_removed_with_the_next_one(tmp_path: Path) -> None:
    run = Run(tmp_path)
    torn = run.store.folder / ".tmp-step-00000001"
    torn.mkdir(parents=True)
    (torn / "model.safetensors").write_bytes(b"half")

    assert not run.store.exists()
    with pytest.raises(ResumeError, match="no checkpoint to resume from"):
        run.store.latest()
    run.go(2)
    assert run.names() == ["step-00000002"]


def test_a_full_disk_ends_the_run_clearly_and_keeps_the_earlier_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.go(2)
    before = read_tree(run.store.folder)
    with full_disk(), pytest.raises(ResumeError) as refusal:
        run.store.save(run.state, 4, run.engine)

    message = str(refusal.value)
    assert message.startswith(f"{run.store.folder / 'step-00000004'}: the checkpoint could not be written (")
    assert message.endswith("--resume continues from step-00000002")
    assert read_tree(run.store.folder) == before


def test_a_checkpoint_without_its_record_does_not_count(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.go(2)
    (run.store.folder / "step-00000009").mkdir()

    assert run.store.latest().name == "step-00000002"


def test_a_step_that_was_saved_before_is_saved_again(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.go(2)
    with torch.no_grad():
        run.model.weight.fill_(7.0)
    run.store.save(run.state, 2, run.engine)

    again = Run(tmp_path)
    assert again.store.restore(again.state) == 2
    assert (again.weights() == 7.0).all()


def test_resuming_nothing_names_the_folder_and_the_way_out(tmp_path: Path) -> None:
    run = Run(tmp_path)

    with pytest.raises(ResumeError, match="start a new one without --resume") as refusal:
        run.store.restore(run.state)
    assert str(run.store.folder) in str(refusal.value)


def test_another_runs_checkpoint_is_refused_with_every_difference(tmp_path: Path) -> None:
    Run(tmp_path).go(2)
    other = Run(tmp_path, {**RECORD, "rate": 0.2, "widths": (32, 32)})

    with pytest.raises(ResumeError) as refusal:
        other.store.restore(other.state)
    message = str(refusal.value)
    assert "rate was 0.1 and is now 0.2" in message
    assert "widths was [32, 64] and is now [32, 32]" in message
    assert "command" not in message
    assert (other.weights() == 0.5).all()


def test_settings_that_may_differ_are_let_through(tmp_path: Path) -> None:
    Run(tmp_path).go(2)
    longer = Run(tmp_path, {**RECORD, "steps": 12})

    with pytest.raises(ResumeError, match="steps was 6 and is now 12"):
        longer.store.restore(longer.state)
    assert longer.store.restore(longer.state, may_differ=("steps",)) == 2


def test_denormal_numbers_are_zero_within_a_loop_and_numbers_again_after_it(tmp_path: Path) -> None:
    def halved() -> float:
        smallest = torch.full((64,), torch.finfo(torch.float32).tiny)
        return float((smallest / 2).sum(dtype=torch.float64))

    within: list[float] = []
    Run(tmp_path).go(2, before_step=lambda k: within.append(halved()))

    assert within == [0.0, 0.0]
    assert halved() > 0


def test_a_setting_that_one_side_lacks_is_a_difference() -> None:
    with pytest.raises(ResumeError, match="new was not set and is now 1"):
        check_record(Path("x"), {"a": 1, "step": 5}, {"a": 1, "new": 1})
    with pytest.raises(ResumeError, match="old was 2 and is now not set"):
        check_record(Path("x"), {"a": 1, "old": 2}, {"a": 1})


def test_the_rate_warms_up_to_its_peak_and_falls_to_zero() -> None:
    rates = [cosine_rate(2.0, step, 100, 10) for step in range(100)]

    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert max(rates) == rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))
    assert cosine_rate(2.0, 100, 100, 10) == pytest.approx(0.0)
    assert cosine_rate(2.0, 0, 100) == 2.0


def test_a_run_shorter_than_its_warm_up_has_rates_too() -> None:
    assert [cosine_rate(1.0, step, 3, 10) for step in range(3)] == pytest.approx([0.1, 0.2, 0.3])


def test_the_learning_rate_is_set_in_every_group() -> None:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)]}, {"params": [torch.ones(1)]}], lr=1.0)
    set_learning_rate(optimizer, 0.25)

    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
