"""The generate command, run as a user runs it: masks in, labelled pairs out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.many_pairs import SIDE
from siamese_core.files import file_digest
from siamese_core.masks.mask_files import read_mask
from siamese_core.masks.resizing import ResizeMode, resize_mask
from siamese_core.pairs.pair_files import find_pairs
from siamese_core.seeds import sample_seed
from siamese_core.weights.key_layouts import decoder_keys
from siamese_core.weights.model_file import load_model, save_model
from tests.support.commands import MODEL_PROMPT, Outcome, run_here
from tests.support.folders import read_tree
from training import generate, train

STEMS = ["lesion2", "lesion10", "tall", "wide"]
"""The masks' stems in natural order."""


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four masks of different sizes and kinds of file."""
    folder = tmp_path_factory.mktemp("masks")
    save_mask(folder / "lesion2.png", disc(SIDE, SIDE))
    save_mask(folder / "lesion10.bmp", disc(100, 100), white=1)
    save_mask(folder / "tall.png", disc(90, 50))
    save_mask(folder / "wide.tif", disc(40, 80))
    return folder


def disc(height: int, width: int) -> NDArray[np.bool_]:
    """An ellipse left of the centre."""
    rows, columns = np.mgrid[:height, :width]
    return (rows / height - 0.5) ** 2 + (columns / width - 0.4) ** 2 < 0.09


def save_mask(path: Path, mask: NDArray[np.bool_], white: int = 255) -> Path:
    Image.fromarray(mask.astype(np.uint8) * np.uint8(white)).save(path)
    return path


def run_generate(checkpoint: Path, masks: Path, output: Path, *more: object) -> Outcome:
    """Run the command with two sampling steps; later flags win."""
    usual = ("--checkpoint", checkpoint, "--masks", masks, "--output", output, "--steps", 2, "--threads", 1)
    return run_here(generate.main, *usual, *more)


def generated_folder(*arguments: Any) -> Path:
    outcome = run_generate(*arguments)
    assert outcome.status == 0, outcome.errors
    return Path(arguments[2])


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory, full_model: Path, masks: Path) -> Path:
    return generated_folder(full_model, masks, tmp_path_factory.mktemp("generated") / "pairs")


def test_every_mask_gets_an_image_of_its_stem(generated: Path) -> None:
    names = {f"{stem}.png" for stem in STEMS}
    assert {path.name for path in (generated / "images").iterdir()} == names
    assert {path.name for path in (generated / "masks").iterdir()} == names
    assert {path.name for path in generated.iterdir()} == {
        *("images", "masks", "manifest.jsonl", "prompt.json"),
        ".run",
    }
    for name in names:
        image = read(generated / "images" / name)
        assert image.shape == (SIDE, SIDE, 3)
        assert len(np.unique(image)) > 1


def test_exported_masks_equal_the_resized_masks_pixel_for_pixel(generated: Path, masks: Path) -> None:
    for source in masks.iterdir():
        expected = resize_mask(read_mask(source).mask, (SIDE, SIDE))
        written = read(generated / "masks" / f"{source.stem}.png")
        assert set(np.unique(written)) == {0, 255}
        assert np.array_equal(written == 255, expected)
        assert np.count_nonzero(written) == np.count_nonzero(expected)


def test_the_manifest_says_how_each_pair_was_made(generated: Path, masks: Path, full_model: Path) -> None:
    records = manifest(generated)
    assert [record["stem"] for record in records] == STEMS
    for index, record in enumerate(records):
        source = masks / record["mask_file"]
        assert record["index"] == index
        assert record["seed"] == sample_seed(42, index)
        assert record["mask_digest"] == file_digest(source)
        assert record["checkpoint_digest"] == file_digest(full_model)
        assert record["run_id"] == "model-run"
        assert record["prompt"] == MODEL_PROMPT


def test_generated_pairs_can_be_trained_on(generated: Path, single_base: Path, tmp_path: Path) -> None:
    pairs = find_pairs(generated)
    assert [(pair.stem, pair.prompt) for pair in pairs] == [(stem, MODEL_PROMPT) for stem in STEMS]

    places = ("--pairs", generated, "--base", single_base, "--output", tmp_path / "run")
    numbers = ("--resolution", SIDE, "--steps", 1, "--batch-size", 2, "--sample-every", 0, "--threads", 1)
    outcome = run_here(train.main, *places, *numbers)
    assert outcome.status == 0, outcome.errors


def test_the_same_command_writes_the_same_bytes(
    generated: Path, full_model: Path, masks: Path, tmp_path: Path
) -> None:
    assert read_tree(generated_folder(full_model, masks, tmp_path / "again")) == read_tree(generated)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_images_hardly_depend_on_the_batch_size(
    batch_size: int, generated: Path, full_model: Path, masks: Path, tmp_path: Path
) -> None:
    other = generated_folder(full_model, masks, tmp_path / "other", "--batch-size", batch_size)
    for stem in STEMS:
        images = [read(folder / "images" / f"{stem}.png").astype(int) for folder in (generated, other)]
        assert np.abs(images[0] - images[1]).max() <= 1


def test_the_mask_decides_the_image(full_model: Path, masks: Path, tmp_path: Path) -> None:
    """With single files as --masks, seed and prompt are the same: only the mask differs."""
    inverted = save_mask(tmp_path / "inverted.png", ~disc(SIDE, SIDE))
    images = []
    for mask in (masks / "lesion2.png", inverted):
        folder = generated_folder(full_model, mask, tmp_path / mask.stem)
        assert [record["stem"] for record in manifest(folder)] == [mask.stem]
        images.append(read(folder / "images" / f"{mask.stem}.png"))
    assert not np.array_equal(images[0], images[1])


def test_a_pair_at_the_sources_size_keeps_its_mask_unchanged(
    full_model: Path, masks: Path, tmp_path: Path
) -> None:
    folder = generated_folder(full_model, masks, tmp_path / "out", "--size", "source")
    for source in masks.iterdir():
        mask = read_mask(source).mask
        assert np.array_equal(read(folder / "masks" / f"{source.stem}.png"), mask.astype(np.uint8) * 255)
        assert read(folder / "images" / f"{source.stem}.png").shape == (*mask.shape, 3)


def test_several_images_of_a_mask_are_numbered_and_differ(
    full_model: Path, masks: Path, tmp_path: Path
) -> None:
    folder = generated_folder(full_model, masks / "tall.png", tmp_path / "out", "--per-mask", 3)
    stems = ["tall_0", "tall_1", "tall_2"]
    assert [record["stem"] for record in manifest(folder)] == stems
    images = [read(folder / "images" / f"{stem}.png") for stem in stems]
    assert not any(np.array_equal(images[a], images[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert len({(folder / "masks" / f"{stem}.png").read_bytes() for stem in stems}) == 1


def test_a_given_prompt_replaces_the_models(full_model: Path, masks: Path, tmp_path: Path) -> None:
    folder = generated_folder(full_model, masks / "tall.png", tmp_path / "out", "--prompt", "a flat lesion")
    assert manifest(folder)[0]["prompt"] == "a flat lesion"
    assert [pair.prompt for pair in find_pairs(folder)] == ["a flat lesion"]


def test_masks_with_a_prompt_file_get_their_own_prompts(
    full_model: Path, pairs: Path, tmp_path: Path
) -> None:
    folder = generated_folder(full_model, pairs, tmp_path / "out", "--steps", 1)
    found, wanted = ({pair.stem: pair.prompt for pair in find_pairs(source)} for source in (folder, pairs))
    assert found == wanted


@pytest.mark.parametrize("mode", ["stretch", "crop", "pad"])
def test_a_mask_of_another_aspect_ratio_is_brought_to_the_models_as_asked(
    mode: ResizeMode, full_model: Path, masks: Path, tmp_path: Path
) -> None:
    folder = generated_folder(full_model, masks / "wide.tif", tmp_path / "out", "--resize-mode", mode)
    expected = resize_mask(read_mask(masks / "wide.tif").mask, (SIDE, SIDE), mode)
    assert np.array_equal(read(folder / "masks" / "wide.png") == 255, expected)
    assert read(folder / "images" / "wide.png").shape == (SIDE, SIDE, 3)


def test_the_image_prior_changes_the_image(
    generated: Path, full_model: Path, masks: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for stem, side in zip(STEMS, (64, 64, 80, 96), strict=True):
        noise = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(images / f"{stem}.png")
    folder = generated_folder(full_model, masks, tmp_path / "out", "--images", images)
    for stem in STEMS:
        with_prior, without = (read(root / "images" / f"{stem}.png") for root in (folder, generated))
        assert not np.array_equal(with_prior, without)
    assert all(record["sampler"]["image_weight"] == 1.0 for record in manifest(folder))

    (images / "tall.png").unlink()
    refusal = run_generate(full_model, masks, tmp_path / "refused", "--images", images).refusal
    assert refusal.startswith(f"{images}: no image with the stem of tall.png")


def test_a_folder_of_pairs_is_replaced_only_when_asked(full_model: Path, masks: Path, tmp_path: Path) -> None:
    folder = generated_folder(full_model, masks / "tall.png", tmp_path / "out")
    before = read_tree(folder)
    refusal = run_generate(full_model, masks / "tall.png", folder, "--seed", 7).refusal
    assert refusal.startswith(f"{folder}: not empty")
    assert read_tree(folder) == before

    generated_folder(full_model, masks / "tall.png", folder, "--seed", 7, "--overwrite")
    after = read_tree(folder)
    assert after["masks/tall.png"] == before["masks/tall.png"]
    assert after["images/tall.png"] != before["images/tall.png"]
    assert len(manifest(folder)) == 1


@pytest.mark.parametrize(
    ("setting", "value"),
    [("steps", 0), ("steps", 1000), ("per-mask", 0), ("batch-size", 0), ("resolution", 100)],
)
def test_a_number_out_of_range_is_named(
    setting: str, value: int, full_model: Path, masks: Path, tmp_path: Path
) -> None:
    refusal = run_generate(full_model, masks, tmp_path / "out", f"--{setting}", value).refusal
    assert refusal.startswith(f"--{setting}")
    assert refusal.endswith(f"not {value}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["checkpoint", "masks", "output"])
def test_a_missing_path_is_asked_for(name: str, full_model: Path, masks: Path, tmp_path: Path) -> None:
    given = {"checkpoint": full_model, "masks": masks, "output": tmp_path / "out"}
    del given[name]
    arguments = [part for key, path in given.items() for part in (f"--{key}", path)]
    assert run_here(generate.main, *arguments).refusal == f"--{name} is needed"


def test_an_adapter_and_a_base_are_no_model_to_generate_with(
    full_model: Path, single_base: Path, masks: Path, tmp_path: Path
) -> None:
    whole = load_model(full_model)
    decoder = {key: whole.parts["unet"][key] for key in decoder_keys(whole.parts["unet"])}
    adapter = tmp_path / "adapter.safetensors"
    parts = {"unet": decoder, "control": whole.parts["control"]}
    save_model(adapter, replace(whole, kind="adapter", parts=parts))
    for path, kind in ((adapter, "an adapter"), (single_base, "a base")):
        refusal = run_generate(path, masks, tmp_path / "out").refusal
        assert f"is {kind}, not a full model" in refusal
        assert str(path) in refusal
    assert not (tmp_path / "out").exists()


def test_masks_that_are_not_there_are_refused(full_model: Path, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    assert f"'{missing}' does not exist" in run_generate(full_model, missing, tmp_path / "out").refusal


def test_an_unreadable_mask_is_named_before_anything_is_generated(
    full_model: Path, masks: Path, tmp_path: Path
) -> None:
    mixed = Path(shutil.copytree(masks, tmp_path / "mixed"))
    (mixed / "torn.png").write_text("no image")
    refusal = run_generate(full_model, mixed, tmp_path / "out").refusal
    assert f"'{mixed / 'torn.png'}' is not an image that can be read" in refusal
    assert not (tmp_path / "out").exists()


def test_two_masks_of_one_stem_are_refused(full_model: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp"):
        save_mask(tmp_path / name, disc(SIDE, SIDE))
    refusal = run_generate(full_model, tmp_path, tmp_path / "out").refusal
    assert "'a.bmp' and 'a.png'" in refusal
    assert "same name" in refusal
