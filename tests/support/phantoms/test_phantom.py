from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.support.phantoms.phantom import Phantom, make_phantom, write_phantoms

SEEDS = range(60)


@cache
def phantom_of(seed: int) -> Phantom:
    return make_phantom(seed)


def test_a_seed_gives_the_same_bytes_in_any_order_and_under_any_global_random_state() -> None:
    first, second = make_phantom(3), make_phantom(4)
    np.random.seed(99)  # noqa: NPY002 - the legacy global generator is what must not matter
    again_second, again_first = make_phantom(4), make_phantom(3)
    for once, again in ((first, again_first), (second, again_second)):
        assert once.image.tobytes() == again.image.tobytes()
        assert once.mask.tobytes() == again.mask.tobytes()
        assert once.prompt == again.prompt


@pytest.mark.parametrize("size", [32, 72, 128, 512])
def test_image_and_mask_have_the_requested_size(size: int) -> None:
    phantom = make_phantom(1, size)
    assert phantom.image.shape == (size, size, 3) and phantom.image.dtype == np.uint8
    assert phantom.mask.shape == (size, size) and phantom.mask.dtype == np.uint8


@pytest.mark.parametrize("seed", range(6))
def test_a_seed_is_the_same_scene_at_another_size(seed: int) -> None:
    small, large = phantom_of(seed), make_phantom(seed, 256)
    assert small.prompt == large.prompt
    shrunk = Image.fromarray(large.image).resize((128, 128), Image.Resampling.BOX)
    assert np.abs(np.asarray(shrunk, np.float32) - small.image).mean() < 5
    shrunk_mask = np.asarray(Image.fromarray(large.mask).resize((128, 128), Image.Resampling.BOX)) > 127
    assert np.mean(shrunk_mask != (small.mask > 0)) < 0.01


@pytest.mark.parametrize("seed", SEEDS)
def test_the_mask_is_black_and_white_and_marks_lesions_in_the_lit_field_of_view(seed: int) -> None:
    phantom = phantom_of(seed)
    assert set(np.unique(phantom.mask)) == {0, 255}
    assert phantom.image[phantom.mask > 0].max(axis=-1).min() > 20


def test_lesions_cover_three_to_thirty_five_percent_and_about_an_eighth_on_average() -> None:
    areas = [float(np.mean(phantom_of(seed).mask > 0)) for seed in SEEDS]
    assert min(areas) > 0.03 and max(areas) < 0.35
    assert 0.11 < np.mean(areas) < 0.16


def test_lesions_stand_out_from_the_mucosa_around_them() -> None:
    distances = []
    for seed in SEEDS:
        phantom = phantom_of(seed)
        inside = phantom.mask > 0
        nearby = np.asarray(Image.fromarray(phantom.mask).filter(ImageFilter.BoxBlur(10))) > 0
        around = nearby & ~inside & (phantom.image.max(axis=-1) > 20)
        means = [phantom.image[region].mean(axis=0) for region in (inside, around)]
        distances.append(float(np.linalg.norm(means[0] - means[1])))
    assert np.quantile(distances, 0.05) > 40
    assert min(distances) > 25


def test_prompts_name_every_count_size_colour_and_kind_in_plain_words() -> None:
    words = {word for seed in SEEDS for word in phantom_of(seed).prompt.split()}
    assert words == {
        *("a", "photo", "of", "two", "three", "polyp", "polyps"),
        *("small", "medium", "large", "red", "pale", "purple", "white", "flat", "sessile", "pedunculated"),
    }
    assert len({phantom_of(seed).prompt for seed in SEEDS}) > 25


def test_no_two_seeds_look_alike() -> None:
    thumbnails = [
        np.asarray(Image.fromarray(phantom_of(seed).image).resize((16, 16)), np.float32) for seed in SEEDS
    ]
    gaps = [np.abs(a - b).mean() for i, a in enumerate(thumbnails) for b in thumbnails[:i]]
    assert min(gaps) > 5


@pytest.mark.parametrize("size", [0, 24, 100, 520])
def test_a_size_off_the_grid_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of 8 from 32 to 512, not {size}"):
        make_phantom(0, size)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or more, not -1"):
        make_phantom(-1)


def test_the_written_folder_pairs_masks_with_images_and_prompts(tmp_path: Path) -> None:
    root = tmp_path / "phantoms"
    write_phantoms(root, count=3, size=32, first=7)
    stems = ["phantom_00007", "phantom_00008", "phantom_00009"]
    assert sorted(path.name for path in root.iterdir()) == ["images", "masks", "prompt.json"]
    for folder in ("images", "masks"):
        assert sorted(path.name for path in (root / folder).iterdir()) == [f"{stem}.png" for stem in stems]
    lines = [json.loads(line) for line in (root / "prompt.json").read_text(encoding="utf-8").splitlines()]
    for number, stem, line in zip(range(7, 10), stems, lines, strict=True):
        phantom = make_phantom(number, 32)
        assert line == {
            "source": f"masks/{stem}.png",
            "target": f"images/{stem}.png",
            "prompt": phantom.prompt,
        }
        np.testing.assert_array_equal(np.asarray(Image.open(root / line["target"])), phantom.image)
        np.testing.assert_array_equal(np.asarray(Image.open(root / line["source"])), phantom.mask)


def test_another_series_shares_no_phantom(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_phantoms(tmp_path / str(seed), count=4, seed=seed, size=32)
    images = {path.read_bytes() for path in tmp_path.glob("*/images/*.png")}
    assert len(images) == 8


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        write_phantoms(tmp_path, count=1, size=32)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_impossible_request_leaves_no_folder_behind(tmp_path: Path) -> None:
    root = tmp_path / "phantoms"
    with pytest.raises(ValueError, match="cannot write 2 from number 99999"):
        write_phantoms(root, count=2, size=32, first=99_999)
    with pytest.raises(ValueError, match="not 33"):
        write_phantoms(root, count=2, size=33)
    assert not root.exists()
