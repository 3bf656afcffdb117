"""Images beside the masks: which models are sampled with them, where they come from, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.many_pairs import SIDE
from siamese_core.files import file_digest
from siamese_core.weights.model_file import load_model, save_model
from tests.support.commands import Outcome, run_here
from training import generate, regenerate, train

ModelOf = Callable[..., Path]


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory, full_model: Path) -> ModelOf:
    """The shared model as if it had been trained with the given settings of the objective."""

    def write(**training: object) -> Path:
        model = load_model(full_model)
        path = tmp_path_factory.mktemp("model") / "model.safetensors"
        save_model(path, replace(model, training={**model.training, **training}))
        return path

    return write


def sample(checkpoint: Path, masks: Path, output: Path, *more: object) -> Outcome:
    flags = ("--checkpoint", checkpoint, "--masks", masks, "--output", output, "--steps", 2, "--threads", 1)
    return run_here(generate.main, *flags, *more)


def sampled(checkpoint: Path, masks: Path, output: Path, *more: object) -> dict[str, NDArray[np.uint8]]:
    """The images of a run by file name."""
    outcome = sample(checkpoint, masks, output, *more)
    assert outcome.status == 0, outcome.errors
    return {path.name: np.asarray(Image.open(path)) for path in sorted((output / "images").glob("*.png"))}


def samplers(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line)["sampler"] for line in (folder / "manifest.jsonl").read_text().splitlines()]


def same(first: dict[str, NDArray[np.uint8]], second: dict[str, NDArray[np.uint8]]) -> bool:
    assert first.keys() == second.keys()
    return all(np.array_equal(first[name], second[name]) for name in first)


def test_a_joint_model_samples_with_the_image_of_each_pair(
    model_of: ModelOf, full_model: Path, pairs: Path, tmp_path: Path
) -> None:
    outcome = sample(model_of(branches="joint"), pairs, tmp_path / "joint")
    assert outcome.status == 0, outcome.errors
    assert "was trained with --branches joint: it samples with the image of each mask" in outcome.output
    joint = sampled(model_of(branches="joint"), pairs, tmp_path / "again")
    asked = sampled(full_model, pairs, tmp_path / "asked", "--images", pairs / "images")
    alone = sampled(full_model, pairs, tmp_path / "alone")

    assert same(joint, asked)
    assert not same(joint, alone)
    digests = [file_digest(path) for path in sorted((pairs / "images").iterdir())]
    for recorded, digest in zip(samplers(tmp_path / "joint"), digests, strict=True):
        assert (recorded["image_weight"], recorded["image_digest"]) == (1.0, digest)
        assert "mask_weight" not in recorded  # as in records from before there was a weight


def test_the_weights_of_the_training_are_those_of_the_sampling(
    model_of: ModelOf, full_model: Path, pairs: Path, tmp_path: Path
) -> None:
    half = sampled(model_of(branches="joint", mask_weight=0.5), pairs, tmp_path / "half")
    whole = sampled(model_of(branches="joint"), pairs, tmp_path / "whole")
    masks = shutil.copytree(pairs, tmp_path / "other")
    for path in (masks / "masks").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path).convert("L"))).save(path)
    image = [sampled(model_of(branches="image"), one, tmp_path / f"of {one.name}") for one in (pairs, masks)]
    mask = sampled(model_of(branches="mask", mask_weight=0.5), pairs, tmp_path / "mask")

    assert not same(half, whole)
    assert [one["mask_weight"] for one in samplers(tmp_path / "half")] == [0.5] * len(half)
    assert same(*image)  # the masks have no say
    assert same(mask, sampled(full_model, pairs, tmp_path / "siamese"))


def test_masks_without_images_are_refused_by_a_model_that_needs_them(
    model_of: ModelOf, pairs: Path, tmp_path: Path
) -> None:
    joint, needs = (
        model_of(branches="joint"),
        "it needs the image of each mask; give a folder of pairs as --masks",
    )
    mask = next((pairs / "masks").iterdir())
    for masks, reason in ((pairs / "masks", "neither 'prompt.json'"), (mask, "is no folder of pairs")):
        refusal = sample(joint, masks, tmp_path / "out").refusal
        assert refusal.startswith(f"{joint} was trained with --branches joint: {needs}, or --images DIR")
        assert reason in refusal
    refusal = sample(joint, pairs, tmp_path / "out", "--random-masks").refusal
    assert refusal == "images beside the masks do not go with --random-masks, nor with --backgrounds"
    assert not (tmp_path / "out").exists()


def test_a_mask_that_no_pair_lists_is_named(model_of: ModelOf, pairs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pairs, tmp_path / "pairs"))
    entries = [
        {"source": f"masks/{path.name}", "target": f"images/{path.name}", "prompt": "a phantom"}
        for path in sorted((folder / "masks").iterdir())
    ]
    (folder / "prompt.json").write_text(json.dumps(entries[1:]), "utf-8")
    refusal = sample(model_of(branches="joint"), folder, tmp_path / "out").refusal
    assert f"'{folder / entries[0]['source']}' belongs to no pair (1 of {len(entries)} masks)" in refusal


def test_a_joint_model_is_trained_sampled_from_and_never_regenerated(
    pairs: Path, single_base: Path, tmp_path: Path
) -> None:
    places = ("--pairs", pairs, "--base", single_base, "--output", tmp_path / "run", "--branches", "joint")
    numbers = ("--resolution", SIDE, "--steps", 2, "--batch-size", 2, "--sample-every", 2, "--threads", 1)
    outcome = run_here(train.main, *places, *numbers, "--sample-count", 1)
    assert outcome.status == 0, outcome.errors
    assert list((tmp_path / "run" / "samples").iterdir())
    model = tmp_path / "run" / "model.safetensors"
    assert load_model(model).training["branches"] == "joint"

    images = sampled(model, pairs, tmp_path / "joint")
    assert len(images) == 6
    record = tmp_path / "joint" / "manifest.jsonl"
    flags = ("--pair", Path(next(iter(images))).stem, "--checkpoint", model, "--masks", pairs / "masks")
    refusal = run_here(regenerate.main, record, *flags, "--output", tmp_path / "none").refusal
    assert "generated with an image beside its mask, which no record holds" in refusal


def test_masks_are_resized_as_in_training_unless_asked_otherwise(model_of: ModelOf, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    wide = Image.new("L", (128, 64))
    wide.paste(255, (50, 18, 78, 46))
    wide.save(masks / "a.png")

    def extent(name: str, *flags: object) -> tuple[int, int]:
        outcome = sample(model_of(resize_mode="crop"), masks, tmp_path / name, "--prompt", "x", *flags)
        assert outcome.status == 0, outcome.errors
        left, top, right, bottom = Image.open(tmp_path / name / "masks" / "a.png").getbbox()
        return right - left, bottom - top

    assert extent("own") == (28 * SIDE // 64, 28 * SIDE // 64)
    assert extent("given", "--resize-mode", "stretch") == (14 * SIDE // 64, 28 * SIDE // 64)
    cropping, flags = model_of(resize_mode="crop"), ("--prompt", "x", "--size", "source")
    refusal = sample(cropping, masks, tmp_path / "x", *flags).refusal
    assert "--size source cannot undo --resize-mode crop" in refusal
    assert not (tmp_path / "x").exists()


def test_masks_that_cannot_be_drawn_at_random_are_told(model_of: ModelOf, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for stem, side in (("dot", 2), ("large", 40)):
        image = Image.new("L", (128, 128))
        image.paste(255, (60, 60, 60 + side, 60 + side))
        image.save(masks / f"{stem}.png")
    flags = ("--prompt", "x", "--random-masks", "--per-mask", 2, "--mask-area", 0.02, 0.5)
    outcome = sample(model_of(), masks, tmp_path / "some", *flags)
    assert outcome.status == 0, outcome.errors
    assert "2 of 4 pairs could not be made, the first because" in outcome.output
    (tmp_path / "some" / "images" / "large_0.png").unlink()
    again = sample(model_of(), masks, tmp_path / "some", *flags, "--resume")
    assert "2 of 4 pairs could not be made, the first because" in again.output, again.errors
    assert "2 of 4" in sample(model_of(), masks, tmp_path / "shards", *flags, "--shard", "0/1").output
    (masks / "large.png").unlink()
    assert "2 of 2 pairs could not be made" in sample(model_of(), masks, tmp_path / "none", *flags).refusal
