"""Checkpoints that were damaged after they were written: copied half, deleted, overwritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from siamese_core.learning.averaged_weights import AveragedWeights
from siamese_core.learning.checkpoints import CheckpointStore, TrainedState
from siamese_core.learning.engine import SingleProcess
from siamese_core.resume_check import ResumeError
from tests.support.folders import read_tree

RECORD = {"command": "test", "steps": 4}
Damage = Callable[[Path], None]


def state(value: float, width: int = 3) -> TrainedState:
    """Two networks of weights ``value`` whose optimiser has made a step, and their average."""
    networks = [nn.Linear(width, 2), nn.Linear(2, 1)]
    parameters = [parameter for network in networks for parameter in network.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, value)
    optimizer.step()
    for parameter in parameters:
        nn.init.constant_(parameter, value)
    average = AveragedWeights(parameters, 0.9)
    average.updates = round(value)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**value)
    return TrainedState(networks, [optimizer], average, scaler)


def values(found: TrainedState) -> list[float]:
    """One number of every part."""
    moments = found.optimizers[0].state_dict()["state"][0]["exp_avg"]
    assert found.average is not None
    assert found.scaler is not None
    weights = [network.weight.detach().flatten()[0].item() for network in found.networks]
    averages = found.average.averages[0].flatten()[0].item()
    scale = torch.tensor(found.scaler.get_scale()).log2().item()
    return [*weights, moments.flatten()[0].item(), averages, found.average.updates, scale]


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """The checkpoints of steps 2 and 4, whose weights are the step's number."""
    made = CheckpointStore(tmp_path / "checkpoints", RECORD)
    for step in (2, 4):
        made.save(state(step), step, SingleProcess())
    return made


def test_every_part_of_the_state_comes_back(store: CheckpointStore) -> None:
    found = state(1)
    assert store.restore(found) == 4
    assert values(found) == values(state(4))


def test_random_states_that_accelerate_wrote_are_no_hindrance(store: CheckpointStore) -> None:
    (store.latest() / "random_states_0.pkl").write_bytes(b"anything")
    assert store.restore(state(1)) == 4


def cut(name: str, kept: int = 100) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:kept])

    return damage


def removed(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def text(name: str, content: str) -> Damage:
    return lambda folder: (folder / name).write_text(content) and None


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (cut("model.safetensors"), ""),
        (cut("model_1.safetensors", 0), ""),
        (removed("model_1.safetensors"), "model_1.safetensors"),
        (cut("optimizer.bin"), ""),
        (cut("optimizer.bin", 0), ""),
        (removed("optimizer.bin"), "optimizer.bin"),
        (text("optimizer.bin", "<html>"), ""),
        (cut("custom_checkpoint_0.pkl"), ""),
        (removed("scaler.pt"), "scaler.pt"),
        (text("record.json", "{"), ""),
        (text("record.json", "[]"), ""),
        (text("record.json", ""), ""),
    ],
)
def test_the_older_whole_checkpoint_takes_the_place_of_a_damaged_one(
    store: CheckpointStore, damage: Damage, named: str
) -> None:
    newest = store.latest()
    damage(newest)
    found, notes = state(1), list[str]()

    assert store.restore(found, note=notes.append) == 2
    assert values(found) == values(state(2))
    (note,) = notes
    assert note.startswith(f"{newest} is damaged (")
    assert named in note
    assert note.endswith("; resuming from step-00000002")


def test_a_damaged_checkpoint_is_written_again(store: CheckpointStore) -> None:
    cut("model.safetensors")(store.latest())
    store.save(state(4), 4, SingleProcess())

    assert store.restore(state(1)) == 4


def test_what_is_kept_does_not_count_a_damaged_newer_one(store: CheckpointStore) -> None:
    cut("optimizer.bin")(store.latest())
    one = replace(store, keep=1)
    one.save(state(3), 3, SingleProcess())
    found = state(1)
    assert one.restore(found) == 3
    assert values(found) == values(state(3))
    assert [path.name for path in one.folder.iterdir()] == ["step-00000003"]


def test_moments_go_on_with_their_weights_whatever_layout_they_were_saved_in(tmp_path: Path) -> None:
    """A GPU trains in channels last; a CPU's fused AdamW reads weights and moments as they lie in memory."""

    def run(layout: torch.memory_format) -> tuple[nn.Module, TrainedState]:
        torch.manual_seed(3)
        network = nn.Conv2d(4, 6, 3).to(memory_format=layout)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)
        return network, TrainedState([network], [optimizer])

    def train(network: nn.Module, trained: TrainedState, seed: int) -> None:
        inputs = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(seed))
        trained.optimizers[0].zero_grad()
        network(inputs).square().mean().backward()
        trained.optimizers[0].step()

    store = CheckpointStore(tmp_path / "checkpoints", RECORD)
    network, trained = run(torch.channels_last)
    train(network, trained, 1)
    store.save(trained, 1, SingleProcess())
    train(network, trained, 2)
    resumed, again = run(torch.contiguous_format)
    store.restore(again)
    train(resumed, again, 2)
    torch.testing.assert_close(resumed.weight, network.weight)


def test_damage_everywhere_is_said_and_changes_nothing(store: CheckpointStore) -> None:
    for folder in store.folder.iterdir():
        cut("optimizer.bin")(folder)
    found = state(1)

    with pytest.raises(ResumeError, match=r"step-00000004 is damaged.*; .*step-00000002 is damaged"):
        store.restore(found)
    assert values(found) == values(state(1))


def test_a_checkpoint_of_another_network_is_not_loaded(store: CheckpointStore) -> None:
    found = state(1, width=5)

    with pytest.raises(ResumeError, match=r"model\.safetensors holds the weights of another network"):
        store.restore(found)
    assert values(found) == values(state(1))


def test_another_runs_checkpoint_is_no_damaged_one(store: CheckpointStore) -> None:
    record = store.latest() / "record.json"
    record.write_text(json.dumps({**RECORD, "seed": 7}))

    with pytest.raises(ResumeError, match="seed was 7 and is now not set"):
        store.restore(state(1))


def test_a_pickle_that_would_run_code_is_not_read(store: CheckpointStore, tmp_path: Path) -> None:
    class Command:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    torch.save({"state": Command()}, store.latest() / "optimizer.bin")

    assert store.restore(state(1)) == 2
    assert not (tmp_path / "ran").exists()


def test_of_several_processes_one_writes_and_all_wait(tmp_path: Path) -> None:
    class Second(SingleProcess):
        process, processes, waited = 1, 2, 0

        def wait_for_all(self) -> None:
            self.waited += 1

    engine, made = Second(), CheckpointStore(tmp_path, RECORD)
    made.save(state(2), 2, engine)

    assert engine.waited == 1
    assert read_tree(tmp_path) == {}
