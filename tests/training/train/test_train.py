"""The train command, run as a user runs it: files in, files out, exit status and messages."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.many_pairs import SIDE
from siamese_core.pairs.pair_files import find_pairs, pairs_fingerprint
from siamese_core.weights.model_file import load_model
from tests.support.commands import Outcome, SignalInStep, run_here
from tests.support.folders import read_tree
from tests.support.learning.train_runs import STEPS, Train, flags
from tests.support.phantoms.phantom import write_phantoms
from training import train as train_command

TERMS = {"loss", "mask", "image", "consistency", "augmentation", "skipped"}
REPOSITORY = Path(__file__).parents[3]


def log_rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def assert_same_training(run: Path, reference: Path) -> None:
    """Both runs logged the same losses and ended with the same weights, bit for bit."""
    assert log_rows(run) == log_rows(reference)
    found, wanted = (load_model(folder / "model.safetensors").parts for folder in (run, reference))
    for part, weights in wanted.items():
        assert found[part].keys() == weights.keys()
        for key, weight in weights.items():
            assert torch.equal(found[part][key], weight), f"{part}: {key}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, train: Train) -> tuple[Path, Outcome]:
    """A run that nothing interrupted, and what it printed."""
    output = tmp_path_factory.mktemp("train") / "run"
    pictures = ("--sample-every", STEPS, "--sample-count", 2, "--sampler", "dpmpp-2m")
    outcome = train(output, "--prompt", "a photo", "--export", "both", *pictures)
    assert outcome.status == 0, outcome.errors
    return output, outcome


@pytest.fixture
def run_copy(finished: tuple[Path, Outcome], tmp_path: Path) -> Path:
    """A copy of the finished run, to be resumed."""
    ignored = shutil.ignore_patterns("tensorboard", "samples")
    return Path(shutil.copytree(finished[0], tmp_path / "copy", ignore=ignored))


def test_every_step_is_logged_with_all_terms(finished: tuple[Path, Outcome]) -> None:
    rows = log_rows(finished[0])
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert all(row.keys() == {"step", *TERMS} for row in rows)
    assert all(np.isfinite(list(row.values())).all() for row in rows)


def test_the_newest_checkpoints_are_kept_up_to_the_limit(finished: tuple[Path, Outcome]) -> None:
    kept = sorted(path.name for path in (finished[0] / "checkpoints").iterdir())
    assert kept == ["step-00000004", "step-00000006"]


def test_the_sample_picture_shows_four_rows_of_the_fixed_masks(finished: tuple[Path, Outcome]) -> None:
    (picture,) = (finished[0] / "samples").iterdir()
    gap = 2
    with Image.open(picture) as image:
        assert image.size == (2 * SIDE + gap, 4 * SIDE + 3 * gap)


def test_tensorboard_logs_are_written(finished: tuple[Path, Outcome]) -> None:
    assert list(finished[0].rglob("events.out.tfevents.*"))


def test_the_finished_model_records_its_training(finished: tuple[Path, Outcome], pairs: Path) -> None:
    run, _ = finished
    model = load_model(run / "model.safetensors")
    assert model.kind == "full"
    assert model.run_id == json.loads((run / "run.json").read_text())["run_id"]
    recorded = {key: model.training[key] for key in ("steps", "step", "prompt", "resolution", "seed")}
    assert recorded == {"steps": STEPS, "step": STEPS, "prompt": "a photo", "resolution": SIDE, "seed": 42}
    assert model.training["pairs_fingerprint"] == pairs_fingerprint(find_pairs(pairs))


def test_the_adapter_holds_what_training_changed(finished: tuple[Path, Outcome]) -> None:
    adapter, full = (load_model(finished[0] / f"{name}.safetensors") for name in ("adapter", "model"))
    assert adapter.kind == "adapter"
    assert (adapter.run_id, adapter.training) == (full.run_id, full.training)
    for part, weights in adapter.parts.items():
        assert all(torch.equal(weight, full.parts[part][key]) for key, weight in weights.items())


def test_training_changes_control_and_decoder_alone(
    finished: tuple[Path, Outcome], single_base: Path
) -> None:
    before, after = load_model(single_base).parts, load_model(finished[0] / "model.safetensors").parts
    changed = {
        f"{part}.{key}"
        for part in before
        for key in before[part]
        if not torch.equal(before[part][key].float(), after[part][key])
    }
    assert changed
    assert all(key.startswith(("unet.output_blocks.", "unet.out.")) for key in changed)


def test_the_command_says_where_the_files_go_and_warns_of_patients_privacy(
    finished: tuple[Path, Outcome],
) -> None:
    run, outcome = finished
    assert f"{run / 'model.safetensors'} (full model); in ComfyUI it goes to models/checkpoints/" in (
        outcome.output
    )
    assert "models/controlnet/" in outcome.output
    assert "trained on patients' images can reproduce them" in outcome.output


def test_flags_win_over_the_config_file_and_a_folder_serves_as_base(
    pairs: Path, base_folder: Path, tmp_path: Path
) -> None:
    config, output = tmp_path / "train.toml", tmp_path / "run"
    config.write_text(
        f'pairs = "{pairs.as_posix()}"\nbase = "{base_folder.as_posix()}"\noutput = "{output.as_posix()}"\n'
        f'resolution = {SIDE}\nthreads = 1\nsample_every = 0\nsteps = 3\nbatch_size = 2\nexport = "adapter"\n'
    )
    outcome = run_here(train_command.main, "--config", config, "--steps", 1)
    assert outcome.status == 0, outcome.errors
    assert load_model(output / "adapter.safetensors").training["steps"] == 1
    assert not (output / "model.safetensors").exists()
    assert len(log_rows(output)) == 1


def test_an_unknown_key_of_the_config_file_is_named(train: Train, tmp_path: Path) -> None:
    config = tmp_path / "train.toml"
    config.write_text("learning_rat = 1e-5\n")
    refusal = train(tmp_path / "run", "--config", config).refusal
    assert str(config) in refusal
    assert "'learning_rat'" in refusal


def test_a_stopped_and_resumed_run_repeats_the_uninterrupted_one(
    finished: tuple[Path, Outcome],
    train: Train,
    signal_in_step: SignalInStep,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    signal_in_step("train", 0, signal.SIGINT)
    signal_in_step("train", 2, signal.SIGTERM)
    for more, number, done in (((), signal.SIGINT, 1), (("--resume",), signal.SIGTERM, 3)):
        stopped = train(run, "--prompt", "a photo", *more)
        assert stopped.status == 128 + number
        assert f"stopped after step {done}" in stopped.output
        assert "--resume" in stopped.output
        assert not (run / "model.safetensors").exists()
    run_id = json.loads((run / "run.json").read_text())["run_id"]

    resumed = train(run, "--prompt", "a photo", "--resume")
    assert resumed.status == 0, resumed.errors
    assert "resuming after step 3" in resumed.output
    assert_same_training(run, finished[0])
    assert load_model(run / "model.safetensors").run_id == run_id


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_not(
    train: Train, pairs: Path, single_base: Path, tmp_path: Path
) -> None:
    kills, run, whole = int(os.environ.get("SIAMESE_KILLS", "4")), tmp_path / "run", tmp_path / "whole"
    rng = random.Random(kills)
    steps = ("--prompt", "a photo", "--steps", 3 * kills, "--log-every", 1)
    log, checkpoints = run / "log.jsonl", run / "checkpoints"
    killed_while_writing = 0
    for kill in range(kills):
        resume = ("--resume",) if run.exists() else ()
        command = [sys.executable, "-m", "training.train"]
        command += map(str, flags(pairs, single_base, run, *steps, *resume))
        before = log.stat().st_mtime_ns if log.exists() else 0
        with (tmp_path / "output").open("w") as output:
            process = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=output)
        while not (log.exists() and log.stat().st_mtime_ns != before):  # until it trains
            assert process.poll() is None, (tmp_path / "output").read_text()
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 3.0))
        if kill % 2:
            while not list(checkpoints.glob(".tmp-step-*")):
                assert process.poll() is None, (tmp_path / "output").read_text()
                time.sleep(0.001)
            time.sleep(rng.uniform(0.0, 0.05))
        process.kill()
        process.wait()
        killed_while_writing += bool(list(checkpoints.glob(".tmp-*")))
    assert killed_while_writing

    resumed = train(run, *steps, "--resume")
    assert resumed.status == 0, resumed.errors
    uninterrupted = train(whole, *steps)
    assert uninterrupted.status == 0, uninterrupted.errors
    assert_same_training(run, whole)
    assert not list(checkpoints.glob(".tmp-*"))


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint(
    finished: tuple[Path, Outcome], train: Train, pairs: Path, single_base: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = map(str, flags(pairs, single_base, run, "--prompt", "a photo"))
    process = subprocess.Popen(
        [sys.executable, "-m", "training.train", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (run / "checkpoints" / "step-00000002").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL

    resumed = train(run, "--prompt", "a photo", "--resume")
    assert resumed.status == 0, resumed.errors
    assert_same_training(run, finished[0])


def test_a_run_killed_before_its_first_checkpoint_begins_again_with_the_same_settings_only(
    finished: tuple[Path, Outcome], train: Train, run_copy: Path
) -> None:
    shutil.rmtree(run_copy / "checkpoints")
    more = ("--prompt", "a photo", "--resume")
    assert "seed was 42 and is now 7" in train(run_copy, *more, "--seed", 7).refusal

    assert "steps was 6 and is now 7" in train(run_copy, *more, "--steps", 7).refusal
    assert train(run_copy, *more).status == 0
    assert_same_training(run_copy, finished[0])


def test_a_run_that_diverges_stops_with_advice_and_keeps_its_state_apart(
    train: Train, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    steps = ("--steps", 20, "--learning-rate", 1e30, "--save-every", 1, "--log-every", 1)
    refusal = train(run, "--prompt", "a photo", *steps).refusal

    assert "not finite in 8 steps in a row (loss nan); the training has diverged. Lower --learning" in refusal
    assert refusal.endswith(f"The state it ended in is in {run / 'diverged'}")
    assert [row["skipped"] for row in log_rows(run)][:2] == [0, 1]
    assert [path.name for path in (run / "diverged").iterdir()] == ["step-00000008"]
    assert not (run / "model.safetensors").exists()


def test_resuming_without_a_checkpoint_is_refused(train: Train, tmp_path: Path) -> None:
    assert "no checkpoint to resume from" in train(tmp_path / "run", "--resume").refusal


def test_a_refused_resume_leaves_the_encoded_set_as_it_is(
    train: Train, run_copy: Path, tmp_path: Path
) -> None:
    before = read_tree(run_copy / "encoded")
    write_phantoms(tmp_path / "others", 6, seed=1, size=SIDE)
    others = ("--prompt", "a photo", "--pairs", tmp_path / "others", "--resume")

    assert "belongs to another run" in train(run_copy, *others).refusal
    assert read_tree(run_copy / "encoded") == before


def test_another_number_of_steps_is_refused_unless_asked_for(train: Train, run_copy: Path) -> None:
    before = read_tree(run_copy / "checkpoints")
    more = ("--prompt", "a photo", "--resume", "--steps", STEPS + 2)
    assert f"steps was {STEPS} and is now {STEPS + 2}" in train(run_copy, *more).refusal
    assert read_tree(run_copy / "checkpoints") == before

    accepted = train(run_copy, *more, "--change-steps")
    assert accepted.status == 0, accepted.errors
    assert [row["step"] for row in log_rows(run_copy)] == list(range(STEPS + 2))
    assert load_model(run_copy / "model.safetensors").training["step"] == STEPS + 2


def test_a_run_killed_before_its_first_checkpoint_may_begin_again_with_other_steps(
    train: Train, run_copy: Path
) -> None:
    shutil.rmtree(run_copy / "checkpoints")
    more = ("--prompt", "a photo", "--resume", "--change-steps", "--steps", STEPS - 1)

    assert train(run_copy, *more).status == 0
    assert [row["step"] for row in log_rows(run_copy)] == list(range(STEPS - 1))


def test_a_run_is_not_resumed_to_fewer_steps_than_are_done(train: Train, run_copy: Path) -> None:
    flags = ("--prompt", "a photo", "--resume", "--change-steps", "--steps", STEPS - 2)
    assert f"{STEPS} steps are done" in train(run_copy, *flags).refusal


def test_a_run_is_not_resumed_with_another_seed_or_other_pairs(
    finished: tuple[Path, Outcome], train: Train, tmp_path: Path
) -> None:
    run, _ = finished
    refusal = train(run, "--prompt", "a photo", "--resume", "--seed", 7).refusal
    assert "belongs to another run: seed was 42 and is now 7" in refusal

    write_phantoms(tmp_path / "others", 6, seed=1, size=SIDE)
    refusal = train(run, "--prompt", "a photo", "--resume", "--pairs", tmp_path / "others").refusal
    assert "pairs_fingerprint was" in refusal
