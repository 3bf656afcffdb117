"""train --init: a run of its own that starts from the weights of a trained model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from siamese_core.files import file_digest
from siamese_core.weights.key_names import is_decoder_key
from siamese_core.weights.model_file import load_model, save_model
from tests.support.commands import run_here
from tests.support.learning.train_runs import Train, flags
from training import convert
from training import train as train_command

NO_STEP = ("--steps", 1, "--learning-rate", 1e-12)


def without_base(pairs: Path, output: Path, *more: object) -> list[object]:
    arguments = flags(pairs, Path(), output, *more)
    place = arguments.index("--base")
    return arguments[:place] + arguments[place + 2 :]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, full_model: Path) -> Path:
    path = tmp_path_factory.mktemp("adapter") / "adapter.safetensors"
    outcome = run_here(convert.main, full_model, path, "--to", "adapter")
    assert outcome.status == 0, outcome.errors
    return path


def parts_of(path: Path) -> dict[str, torch.Tensor]:
    parts = load_model(path).parts
    return {
        f"{part}.{key}": value.float() for part, weights in parts.items() for key, value in weights.items()
    }


def test_a_whole_model_is_trained_on_in_a_run_of_its_own(
    pairs: Path, full_model: Path, tmp_path: Path
) -> None:
    outcome = run_here(
        train_command.main, *without_base(pairs, tmp_path / "run", "--init", full_model, *NO_STEP)
    )
    assert outcome.status == 0, outcome.errors
    model, parent = load_model(tmp_path / "run" / "model.safetensors"), load_model(full_model)
    told = {key: model.training[key] for key in ("init", "parent", "base")}
    digest = file_digest(full_model)
    assert told == {"init": digest, "parent": "model-run", "base": digest}
    assert model.run_id not in ("", parent.run_id)

    # After a step of nearly no length the weights are the parent's, the ControlNet's as well.
    start, end = parts_of(full_model), parts_of(tmp_path / "run" / "model.safetensors")
    assert start.keys() == end.keys()
    assert all(torch.allclose(end[key], value, atol=1e-6) for key, value in start.items())


def test_training_changes_control_and_decoder_and_nothing_else(
    pairs: Path, full_model: Path, tmp_path: Path
) -> None:
    more = ("--init", full_model, "--steps", 2, "--learning-rate", 1e-3)
    outcome = run_here(train_command.main, *without_base(pairs, tmp_path / "run", *more))
    assert outcome.status == 0, outcome.errors
    start, end = parts_of(full_model), parts_of(tmp_path / "run" / "model.safetensors")
    changed = {key.partition(".")[::2] for key, value in start.items() if not torch.equal(value, end[key])}
    assert {part for part, _ in changed} == {"unet", "control"}
    assert all(is_decoder_key(key) for part, key in changed if part == "unet")


def test_an_adapter_with_its_base_starts_as_the_whole_model_does(
    train: Train, pairs: Path, single_base: Path, full_model: Path, adapter: Path, tmp_path: Path
) -> None:
    whole = run_here(train_command.main, *without_base(pairs, tmp_path / "whole", "--init", full_model))
    both = train(tmp_path / "both", "--init", adapter)
    assert whole.status == both.status == 0, both.errors
    logs = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "both")
    ]
    assert logs[0] == logs[1]
    training = load_model(tmp_path / "both" / "model.safetensors").training
    assert training["init"] == file_digest(adapter)
    assert training["base"] == file_digest(single_base)


def test_such_a_run_resumes_with_the_same_start_alone(
    train: Train, pairs: Path, single_base: Path, full_model: Path, adapter: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    more = ("--init", full_model, "--resume", "--change-steps", "--steps", 8)
    assert run_here(train_command.main, *without_base(pairs, run, "--init", full_model)).status == 0
    assert "init was" in train(run, "--resume").refusal
    outcome = run_here(train_command.main, *without_base(pairs, run, *more))
    assert outcome.status == 0, outcome.errors
    assert "resuming after step 6" in outcome.output


def test_what_does_not_go_together_is_refused(
    train: Train, pairs: Path, single_base: Path, full_model: Path, adapter: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    def alone(*more: object) -> str:
        return run_here(train_command.main, *without_base(pairs, run, *more)).refusal

    assert "holds its base; leave out --base" in train(run, "--init", full_model).refusal
    assert "--base gives the base that it was trained on" in alone("--init", adapter)
    assert "--init takes a whole model or an adapter" in alone("--init", single_base)
    sparse = alone("--init", full_model, "--hint-block", "sparse")
    assert sparse.endswith("its hint block is dense; give --hint-block dense")
    assert "nowhere" in alone("--init", tmp_path / "nowhere.safetensors")
    damaged = tmp_path / "adapter_of_another.safetensors"
    file = load_model(adapter)
    other = replace(file.architecture, prediction="v_prediction")
    save_model(damaged, replace(file, architecture=other))
    assert f"{damaged} on {single_base}: --base does not fit" in train(run, "--init", damaged).refusal
    assert not run.exists()


def test_the_refusal_of_a_trained_base_tells_of_it(train: Train, full_model: Path, tmp_path: Path) -> None:
    refusal = train(tmp_path / "run", "--base", full_model).refusal
    assert "use --init in place of --base" in refusal


def test_a_run_from_a_base_records_no_parent(train: Train, single_base: Path, tmp_path: Path) -> None:
    assert train(tmp_path / "run", *NO_STEP).status == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["base"] == file_digest(single_base)
    assert not {"init", "parent"} & record.keys()
