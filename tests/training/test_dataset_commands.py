"""Generating sets with the real networks: workers, kills, merging, pairs made again from their records."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamese_core.dataset_generation.storage import open_store
from tests.support.commands import Outcome, SignalAtPair, run_here
from tests.support.folders import read_tree
from tests.support.phantoms.phantom import write_phantoms
from training import generate, merge, regenerate

FLAGS = ("--steps", 2, "--threads", 1, "--batch-size", 2, "--chunk-size", 4)
COUNT = 10


def run_generate(checkpoint: Path, masks: Path, output: Path | str, *more: object) -> Outcome:
    places = ("--checkpoint", checkpoint, "--masks", masks, "--output", output)
    return run_here(generate.main, *places, *FLAGS, *more)


def files(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in read_tree(folder).items() if not name.startswith(".run/")}


def manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, 5, size=64)
    return folder / "masks"


RANDOM = ("--per-mask", 2, "--random-masks", "--mask-rotate", 90, "--mask-beyond", "mirrored")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, full_model: Path, masks: Path) -> Path:
    """A dataset of random masks that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "set"
    outcome = run_generate(full_model, masks, folder, *RANDOM)
    assert outcome.status == 0, outcome.errors
    return folder


def test_random_masks_differ_from_their_source_and_say_how_they_were_drawn(whole: Path, masks: Path) -> None:
    lines = manifest(whole)
    assert len(lines) == COUNT
    drawn = {(whole / "masks" / f"{line['stem']}.png").read_bytes() for line in lines}
    assert len(drawn) == COUNT
    assert {(line["transform"]["rotate"], line["transform"]["beyond"]) for line in lines} == {
        (90, "mirrored")
    }
    assert len({line["transform"]["seed"] for line in lines}) == COUNT
    assert not drawn & {path.read_bytes() for path in masks.iterdir()}


def test_a_mask_setting_without_random_masks_is_refused(
    full_model: Path, masks: Path, tmp_path: Path
) -> None:
    refusal = run_generate(full_model, masks, tmp_path / "set", "--mask-rotate", 90).refusal
    assert refusal == "--mask-rotate needs --random-masks"


@pytest.mark.parametrize("shards", [2, 3])
def test_shards_make_the_set_of_one_machine(
    shards: int, whole: Path, full_model: Path, masks: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    for number in range(shards):
        outcome = run_generate(full_model, masks, folder, *RANDOM, "--shard", f"{number}/{shards}")
        assert outcome.status == 0, outcome.errors
    assert files(folder) == files(whole)


@pytest.mark.parametrize("text", ["2/2", "1", "a/b", "-1/2", "0/0"])
def test_a_share_that_is_none_is_refused(text: str, full_model: Path, masks: Path, tmp_path: Path) -> None:
    assert "--shard must be" in run_generate(full_model, masks, tmp_path / "set", f"--shard={text}").refusal


def test_an_address_of_an_object_store_holds_the_same_set(whole: Path, full_model: Path, masks: Path) -> None:
    outcome = run_generate(full_model, masks, "memory://pairs/set", *RANDOM)
    assert outcome.status == 0, outcome.errors
    store = open_store("memory://pairs/set")
    for name, content in files(whole).items():
        assert store.read(name) == content


def test_an_unknown_kind_of_address_is_refused(full_model: Path, masks: Path) -> None:
    assert "cannot be opened" in run_generate(full_model, masks, "nowhere://set").refusal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_asked_to_stop_lists_what_it_has_and_goes_on(
    number: signal.Signals,
    whole: Path,
    full_model: Path,
    masks: Path,
    tmp_path: Path,
    signal_at_pair: SignalAtPair,
) -> None:
    folder = tmp_path / "set"
    signal_at_pair(3, number)
    outcome = run_generate(full_model, masks, folder, *RANDOM)
    assert outcome.status == 128 + number
    assert "4 of 10 pairs are there" in outcome.output
    assert len(manifest(folder)) == len((folder / "prompt.json").read_text().splitlines()) == 4
    assert "resume that one" in run_generate(full_model, masks, folder, *RANDOM).refusal

    outcome = run_generate(full_model, masks, folder, *RANDOM, "--resume")
    assert outcome.status == 0, outcome.errors
    assert files(folder) == files(whole)


def test_a_stopped_run_that_replaced_a_set_is_gone_on_with_and_not_begun_anew(
    full_model: Path, masks: Path, tmp_path: Path, signal_at_pair: SignalAtPair
) -> None:
    folder = tmp_path / "set"
    signal_at_pair(3, signal.SIGINT)
    outcome = run_generate(full_model, masks, folder, *RANDOM, "--overwrite")
    assert "the same command --resume in place of --overwrite" in outcome.output
    both = run_generate(full_model, masks, folder, *RANDOM, "--overwrite", "--resume")
    assert both.refusal == "--overwrite would remove what --resume continues; give one of the two"
    assert len(manifest(folder)) == 4


def test_a_stopped_run_tells_of_the_pairs_that_are_listed(
    full_model: Path, masks: Path, tmp_path: Path, signal_at_pair: SignalAtPair
) -> None:
    signal_at_pair(5, signal.SIGINT)  # in the middle of the second tar
    outcome = run_generate(full_model, masks, tmp_path / "set", *RANDOM, "--format", "webdataset")
    assert "4 of 10 pairs are there" in outcome.output
    assert len(manifest(tmp_path / "set")) == 4


def test_a_dataset_is_resumed_in_the_precision_that_it_was_begun_in(
    full_model: Path, masks: Path, tmp_path: Path
) -> None:
    half, full = tmp_path / "half", tmp_path / "full"
    assert run_generate(full_model, masks, half, "--precision", "bf16").status == 0
    assert run_generate(full_model, masks, full).status == 0
    lines = [manifest(folder)[0] for folder in (half, full)]
    assert [line["sampler"].get("precision") for line in lines] == ["bf16", None]
    name = lines[0]["files"][0]["name"]
    images = [np.asarray(Image.open(folder / name)) for folder in (half, full)]
    difference = np.abs(np.subtract(*images, dtype=int))
    assert 0 < difference.mean() < 8

    wanted = files(half)
    (half / name).unlink()
    assert run_generate(full_model, masks, half, "--resume").status == 0
    assert files(half) == wanted
    assert "precision" in run_generate(full_model, masks, full, "--resume", "--precision", "bf16").refusal


def test_without_a_flag_the_guidance_is_the_models_or_the_begun_datasets(
    full_model: Path, masks: Path, whole: Path, tmp_path: Path
) -> None:
    assert {line["sampler"]["guidance"] for line in manifest(whole)} == {3.0}

    begun = tmp_path / "begun"
    assert run_generate(full_model, masks, begun, "--guidance", 9).status == 0
    wanted = files(begun)
    (begun / manifest(begun)[0]["files"][0]["name"]).unlink()
    assert run_generate(full_model, masks, begun, "--resume").status == 0
    assert files(begun) == wanted


def test_another_setting_than_the_begun_sets_is_named(
    full_model: Path, masks: Path, tmp_path: Path, signal_at_pair: SignalAtPair
) -> None:
    folder = tmp_path / "set"
    signal_at_pair(3, signal.SIGTERM)
    run_generate(full_model, masks, folder, *RANDOM)
    refusal = run_generate(full_model, masks, folder, *RANDOM, "--guidance", 5, "--resume").refusal
    assert refusal.endswith(
        "the dataset belongs to another run: guidance was 3.0 and is now 5.0; give the same settings as "
        "before, another folder, or --overwrite to begin anew"
    )


def test_a_mask_changed_while_running_ends_the_run_and_says_so(
    full_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_phantoms(tmp_path / "phantoms", 5, size=64)
    last = sorted((tmp_path / "phantoms" / "masks").iterdir())[-1]
    generating = generate.PairSampler.sample

    def change(self: Any, jobs: Any) -> Any:
        Image.new("L", (64, 64), 255).save(last)
        return generating(self, jobs)

    monkeypatch.setattr(generate.PairSampler, "sample", change)
    refusal = run_generate(full_model, tmp_path / "phantoms" / "masks", tmp_path / "set").refusal
    assert refusal.startswith(f"{last}: the mask has changed since the run began")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_must_not_be_written_is_named(full_model: Path, masks: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir(mode=0o500)
    assert run_generate(full_model, masks, folder).refusal.startswith(f"{folder}: could not be written")


def test_merge_says_what_lacks_and_writes_the_lists_of_a_part_when_asked(
    full_model: Path, masks: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    run_generate(full_model, masks, folder, *RANDOM, "--shard", "0/2")
    outcome = run_here(merge.main, folder)
    assert outcome.status == 1
    assert "6 of 10 pairs; 1 chunks of 4 pairs are unfinished, 1 to 1" in outcome.output
    assert not (folder / "manifest.jsonl").exists()
    assert run_here(merge.main, folder, "--partial").status == 0
    assert len(manifest(folder)) == 6

    run_generate(full_model, masks, folder, *RANDOM, "--shard", "1/2")
    assert run_here(merge.main, folder, "--deep").status == 0
    (folder / "images" / manifest(folder)[3]["files"][0]["name"].removeprefix("images/")).write_bytes(b"?")
    assert "1 files are missing or damaged" in run_here(merge.main, folder).refusal
    assert "no dataset of training.generate" in run_here(merge.main, tmp_path).refusal


def test_merge_compares_digests_when_asked(full_model: Path, masks: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    run_generate(full_model, masks, folder)
    path = next((folder / "images").iterdir())
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert run_here(merge.main, folder).status == 0
    assert path.name in run_here(merge.main, folder, "--deep").refusal


@pytest.mark.parametrize("index", [0, 7])
@pytest.mark.parametrize("source", ["manifest", "image"])
def test_a_pair_made_again_from_its_record_equals_the_original(
    index: int, source: str, whole: Path, full_model: Path, masks: Path, tmp_path: Path
) -> None:
    line = manifest(whole)[index]
    image, mask = (file["name"] for file in line["files"])
    record = (whole / image,) if source == "image" else (whole / "manifest.jsonl", "--pair", line["stem"])
    places = ("--checkpoint", full_model, "--masks", masks, "--output", tmp_path / "pair")
    outcome = run_here(regenerate.main, *record, *places)
    assert outcome.status == 0, outcome.output
    assert "equal to the original, byte for byte" in outcome.output
    assert files(tmp_path / "pair") == {name: (whole / name).read_bytes() for name in (image, mask)}


@pytest.mark.parametrize(("sampler", "steps"), [("dpmpp-2m", 15), ("unipc", 19), ("dpmpp-2m-sde", 25)])
def test_the_record_tells_the_sampler_that_a_pair_is_made_again_with(
    full_model: Path, masks: Path, tmp_path: Path, sampler: str, steps: int
) -> None:
    places = ("--checkpoint", full_model, "--masks", masks)
    made, again = tmp_path / "made", tmp_path / "again"
    flags = ("--sampler", sampler, "--batch-size", 2, "--threads", 1)
    assert run_here(generate.main, *places, "--output", made, *flags).status == 0
    line = manifest(made)[0]
    assert (line["sampler"]["name"], line["sampler"]["steps"]) == (sampler, steps)

    record = (made / "manifest.jsonl", "--pair", line["stem"])
    outcome = run_here(regenerate.main, *record, *places, "--output", again)
    assert "equal to the original, byte for byte" in outcome.output

    line["sampler"]["name"] = "euler"
    (tmp_path / "manifest.jsonl").write_text(json.dumps(line))
    record = (tmp_path / "manifest.jsonl", "--pair", line["stem"])
    outcome = run_here(regenerate.main, *record, *places, "--output", tmp_path / "none")
    assert "has 'euler' as its 'name'" in outcome.refusal


def test_a_pair_of_a_device_that_is_not_here_is_made_again_on_the_cpu(
    whole: Path, full_model: Path, masks: Path, tmp_path: Path
) -> None:
    line = manifest(whole)[0]
    line["sampler"]["device"] = "meta"
    (tmp_path / "manifest.jsonl").write_text(json.dumps(line))
    places = ("--checkpoint", full_model, "--masks", masks, "--output", tmp_path / "pair")
    outcome = run_here(regenerate.main, tmp_path / "manifest.jsonl", "--pair", line["stem"], *places)
    assert "note: generated on 'meta', this is the CPU" in outcome.output
    assert "NOT equal to the original" in outcome.output  # the image's text tells of the device
    image, mask = (file["name"] for file in line["files"])
    assert (tmp_path / "pair" / mask).read_bytes() == (whole / mask).read_bytes()
    with Image.open(tmp_path / "pair" / image) as found, Image.open(whole / image) as wanted:
        assert np.array_equal(np.asarray(found), np.asarray(wanted))


def test_what_is_no_record_or_not_the_recorded_file_is_refused(
    whole: Path, full_model: Path, single_base: Path, masks: Path, tmp_path: Path
) -> None:
    def refusal(record: Path, *more: object, checkpoint: Path = full_model, folder: Path = masks) -> str:
        places = ("--checkpoint", checkpoint, "--masks", folder, "--output", tmp_path / "pair")
        return run_here(regenerate.main, record, *more, *places).refusal

    lists = whole / "manifest.jsonl"
    stem = manifest(whole)[0]["stem"]
    assert "no pair is called 'nobody'" in refusal(lists, "--pair", "nobody")
    assert "a manifest needs --pair" in refusal(lists)
    assert "carries no record" in refusal(next((whole / "masks").iterdir()))
    assert "not the checkpoint of the record" in refusal(lists, "--pair", stem, checkpoint=single_base)
    assert "the mask is not there" in refusal(lists, "--pair", stem, folder=tmp_path)
    (tmp_path / "odd.jsonl").write_text('{"stem": "x", "nonsense": 1}\n')
    assert "lacks 'index'" in refusal(tmp_path / "odd.jsonl", "--pair", "x")
    (tmp_path / "odd.jsonl").write_text(json.dumps({**manifest(whole)[0], "sampler": {"cfg": 3}}))
    assert "lacks 'steps'" in refusal(tmp_path / "odd.jsonl", "--pair", stem)
    assert not (tmp_path / "pair").exists()


KILLS = int(os.environ.get("SIAMESE_KILLS", "3"))


@pytest.mark.slow
@pytest.mark.timeout(1200 + 120 * KILLS)
def test_a_killed_run_shows_whole_pairs_only_and_ends_as_the_uninterrupted_one(
    full_model: Path, masks: Path, tmp_path: Path
) -> None:
    """Three kills of a run of ten pairs; SIAMESE_KILLS=50 asks for 50 kills of one of five hundred."""
    drawing = (*RANDOM, "--per-mask", max(2, 2 * KILLS))
    assert run_generate(full_model, masks, tmp_path / "whole", *drawing).status == 0
    whole = files(tmp_path / "whole")
    folder = tmp_path / "set"
    places = ("--checkpoint", full_model, "--masks", masks, "--output", folder)
    command = [sys.executable, "-m", "training.generate", *map(str, (*places, *FLAGS, *drawing, "--resume"))]
    moments = random.Random(3)
    found = 0
    for _ in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        known = len(listed_lines(folder))
        while process.poll() is None and len(listed_lines(folder)) <= known:
            time.sleep(0.01)
        time.sleep(moments.random() * 0.5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        there = whole_pairs(folder)
        assert len(there) >= found, "a finished pair was lost"
        found = len(there)
        assert there == {name: whole[name] for name in there}

    assert subprocess.run(command, capture_output=True).returncode == 0
    assert files(folder) == whole


def listed_lines(folder: Path) -> list[dict[str, Any]]:
    parts = sorted((folder / ".run" / "parts").glob("[!.]*"))
    lines: list[dict[str, Any]] = []
    for part in parts:
        with contextlib.suppress(FileNotFoundError):  # a partial list that has just become a full one
            lines += map(json.loads, part.read_text("utf-8").splitlines())
    return lines


def whole_pairs(folder: Path) -> dict[str, bytes]:
    """The files of all pairs that are listed; each image there is has its mask and can be read."""
    masks = {path.name for path in (folder / "masks").glob("[!.]*")}
    for path in (folder / "images").glob("[!.]*"):
        assert path.name in masks
        with Image.open(path) as image:
            assert np.asarray(image).shape == (64, 64, 3)
    names = [file["name"] for line in listed_lines(folder) for file in line["files"]]
    return {name: (folder / name).read_bytes() for name in names}
