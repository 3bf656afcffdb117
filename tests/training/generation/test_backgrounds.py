"""generate --backgrounds: pairs around which real frames show, and such pairs made again."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.many_pairs import SIDE
from siamese_core.diffusers_backend.mask_sampling import Sampler
from siamese_core.files import file_digest
from siamese_core.masks.resizing import resize_image
from siamese_core.method.background_blending import blend_weights
from siamese_core.seeds import stream_seed
from tests.support.commands import Outcome, SignalAtPair, run_here
from tests.support.datasets.pair_files import save
from tests.support.folders import read_tree
from training import generate, regenerate

BLEND = 4
FLAGS = ("--steps", 2, "--threads", 1, "--batch-size", 2, "--chunk-size", 4, "--blend", BLEND)
COUNT = 6


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discs of different places, and one mask without foreground; half of them of another size."""
    folder = tmp_path_factory.mktemp("masks")
    for number in range(COUNT):
        side = SIDE + 32 * (number % 2)
        rows, columns = np.mgrid[:side, :side]
        inside = (rows - 24) ** 2 + (columns - 18 - 3 * number) ** 2 < 100
        save(folder / f"lesion_{number}.png", (inside & (number != 4)).astype(np.uint8) * np.uint8(255))
    return folder


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(1)
    for number, size in enumerate([(SIDE, SIDE), (SIDE, SIDE), (90, 120)]):
        save(folder / f"frame_{number}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return folder


def run(checkpoint: Path, masks: Path, frames: Path, output: Path, *more: object) -> Outcome:
    places = ("--checkpoint", checkpoint, "--masks", masks, "--backgrounds", frames, "--output", output)
    return run_here(generate.main, *places, *FLAGS, *more)


def manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in read_tree(folder).items() if not name.startswith(".run/")}


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, full_model: Path, masks: Path, frames: Path) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "pairs"
    outcome = run(full_model, masks, frames, folder)
    assert outcome.status == 0, outcome.errors
    return folder


def assert_over_frames(folder: Path, frames: Path, seed: int = 42) -> None:
    """Each image of ``folder`` is its frame outside of the blend, and something else in the mask."""
    for line in manifest(folder):
        image, mask = (read(folder / file["name"]) for file in line["files"])
        file = frames / line["sampler"]["background"]
        assert file.name == f"frame_{stream_seed(seed, 'background', line['index']) % 3}.png"
        assert line["sampler"]["background_digest"] == file_digest(file)
        assert line["sampler"]["blend"] == BLEND

        height, width = mask.shape
        frame = resize_image(read(file), (height, width))
        weights = blend_weights(torch.from_numpy(mask > 0)[None], BLEND)[0].numpy()
        assert np.array_equal(image[weights == 0], frame[weights == 0])
        assert (image[mask > 0] != frame[mask > 0]).any() == mask.any()


def test_outside_of_mask_and_blend_an_image_is_its_frame(whole: Path, frames: Path) -> None:
    assert len(manifest(whole)) == COUNT
    assert_over_frames(whole, frames)


def test_a_mask_without_foreground_leaves_the_frame_as_it_is(whole: Path, frames: Path) -> None:
    line = manifest(whole)[4]
    frame = resize_image(read(frames / line["sampler"]["background"]), (SIDE, SIDE))
    assert np.array_equal(read(whole / "images" / "lesion_4.png"), frame)


@pytest.mark.parametrize("sampler", get_args(Sampler))
def test_pairs_of_their_masks_sizes_lie_in_frames_too(
    sampler: str, full_model: Path, masks: Path, frames: Path, tmp_path: Path
) -> None:
    more = ("--size", "source", "--sampler", sampler, "--random-masks", "--seed", 5)
    outcome = run(full_model, masks, frames, tmp_path / "pairs", *more)
    assert outcome.status == 0, outcome.errors
    assert {read(path).shape[0] for path in (tmp_path / "pairs" / "images").iterdir()} == {SIDE, SIDE + 32}
    assert_over_frames(tmp_path / "pairs", frames, seed=5)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_images_hardly_depend_on_the_batch_size(
    batch_size: int, whole: Path, full_model: Path, masks: Path, frames: Path, tmp_path: Path
) -> None:
    outcome = run(full_model, masks, frames, tmp_path / "other", "--batch-size", batch_size)
    assert outcome.status == 0, outcome.errors
    for path in (whole / "images").iterdir():
        difference = np.subtract(read(path), read(tmp_path / "other" / "images" / path.name), dtype=int)
        assert np.abs(difference).max() <= 1


def test_a_stopped_run_resumes_to_the_dataset_of_an_uninterrupted_one(
    whole: Path, full_model: Path, masks: Path, frames: Path, tmp_path: Path, signal_at_pair: SignalAtPair
) -> None:
    folder = tmp_path / "pairs"
    signal_at_pair(3, signal.SIGTERM)
    assert run(full_model, masks, frames, folder).status == 128 + signal.SIGTERM
    assert 0 < len(manifest(folder)) < COUNT

    outcome = run(full_model, masks, frames, folder, "--resume")
    assert outcome.status == 0, outcome.errors
    assert files(folder) == files(whole)


def test_other_frames_or_none_are_another_dataset(
    whole: Path, full_model: Path, masks: Path, frames: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pairs"
    shutil.copytree(whole, folder)
    others = tmp_path / "others"
    shutil.copytree(frames, others)
    save(others / "frame_0.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    assert "backgrounds was" in run(full_model, masks, others, folder, "--resume").refusal
    assert (
        "blend was 4 and is now 5" in run(full_model, masks, frames, folder, "--resume", "--blend", 5).refusal
    )
    places = ("--checkpoint", full_model, "--masks", masks, "--output", folder)
    assert "backgrounds was" in run_here(generate.main, *places, *FLAGS[:-2], "--resume").refusal


@pytest.mark.parametrize("index", range(COUNT))
def test_any_pair_is_made_again_from_its_record(
    index: int, whole: Path, full_model: Path, masks: Path, frames: Path, tmp_path: Path
) -> None:
    line = manifest(whole)[index]
    record = (whole / "manifest.jsonl", "--pair", line["stem"])
    places = ("--checkpoint", full_model, "--masks", masks, "--output", tmp_path / "pair")
    outcome = run_here(regenerate.main, *record, *places, "--backgrounds", frames)
    assert "equal to the original, byte for byte" in outcome.output
    assert files(tmp_path / "pair") == {
        file["name"]: (whole / file["name"]).read_bytes() for file in line["files"]
    }


def test_a_pair_is_not_made_again_over_another_frame_or_a_blend_that_cannot_be(
    whole: Path, full_model: Path, masks: Path, frames: Path, tmp_path: Path
) -> None:
    line = manifest(whole)[0]
    places = ("--checkpoint", full_model, "--masks", masks, "--output", tmp_path / "pair")

    def refusal(*more: object, lists: Path = whole / "manifest.jsonl") -> str:
        return run_here(regenerate.main, lists, "--pair", line["stem"], *places, *more).refusal

    name = line["sampler"]["background"]
    assert f"its background is the frame '{name}'; --backgrounds gives its folder" in refusal()
    assert "the frame is not there" in refusal("--backgrounds", tmp_path)
    save(tmp_path / "others" / name, np.zeros((SIDE, SIDE, 3), np.uint8))
    assert "not the frame of the record" in refusal("--backgrounds", tmp_path / "others")
    for blend in (None, -1, 10**9):
        line["sampler"]["blend"] = blend
        (tmp_path / "manifest.jsonl").write_text(json.dumps(line))
        told = refusal("--backgrounds", frames, lists=tmp_path / "manifest.jsonl")
        assert told.endswith("its blend is not in 0..256")


def test_a_record_without_frames_is_as_it_was(full_model: Path, masks: Path, tmp_path: Path) -> None:
    places = ("--checkpoint", full_model, "--masks", masks, "--output", tmp_path / "pairs")
    outcome = run_here(generate.main, *places, *FLAGS[:-2])
    assert outcome.status == 0, outcome.errors
    settings = json.loads((tmp_path / "pairs" / ".run" / "settings.json").read_text())
    told = json.dumps([settings, manifest(tmp_path / "pairs")])
    assert "background" not in told and "blend" not in told


def test_frames_that_cannot_be_meant_are_refused(
    full_model: Path, masks: Path, frames: Path, tmp_path: Path
) -> None:
    output = tmp_path / "pairs"
    save(tmp_path / "own" / "images" / "one.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    save(tmp_path / "own" / "masks" / "one.png", np.full((SIDE, SIDE), 255, np.uint8))
    assert "has a mask of its own" in run(full_model, masks, tmp_path / "own", output).refusal
    assert "does not exist" in run(full_model, masks, tmp_path / "nowhere", output).refusal
    prior = run(full_model, masks, frames, output, "--images", masks).refusal
    assert prior.endswith("it does not go with --backgrounds")
    places = ("--checkpoint", full_model, "--masks", masks, "--output", output)
    assert run_here(generate.main, *places, "--blend", 3).refusal == "--blend needs --backgrounds"
    inside = run(full_model, masks, frames, frames, "--overwrite").refusal
    assert "the output would be written there" in inside or "is read" in inside
    assert not output.exists()
