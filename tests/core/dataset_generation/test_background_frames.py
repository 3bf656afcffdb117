"""Real frames without a finding: which are found, which are refused, and which one a pair takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_core.dataset_generation.background_frames import (
    FrameError,
    FrameFiles,
    find_frames,
    frame_of_pair,
    read_frame,
)
from siamese_core.files import file_digest
from siamese_core.masks.resizing import resize_image
from siamese_core.pairs.pair import PairError
from siamese_core.seeds import stream_seed
from tests.support.datasets.pair_files import save

SIDE = 24


def write_frames(folder: Path, count: int = 3) -> list[Path]:
    rng = np.random.default_rng(0)
    return [
        save(folder / f"frame_{number}.png", rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        for number in range(count)
    ]


def save_mask(path: Path, foreground: bool) -> Path:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:4] = 255 * foreground
    return save(path, mask)


def test_a_pair_takes_its_frame_whatever_else_is_made(tmp_path: Path) -> None:
    files = write_frames(tmp_path)
    frames = FrameFiles(find_frames(tmp_path))

    def taken(seed: int) -> list[str]:
        return [frame_of_pair(frames, seed, index, (SIDE, SIDE)).name for index in range(60)]

    # A hash that holds for ever: datasets that were begun are resumed by it.
    assert taken(5)[:6] == [files[stream_seed(5, "background", index) % 3].name for index in range(6)]
    assert set(taken(5)) == {path.name for path in files}
    assert taken(5) == taken(5) != taken(6)


def test_a_frame_of_the_pairs_size_is_the_file_and_another_is_resized(tmp_path: Path) -> None:
    (path,) = write_frames(tmp_path, count=1)
    pixels = np.asarray(Image.open(path))
    for mode in ("stretch", "crop", "pad"):
        assert np.array_equal(read_frame(path, (SIDE, SIDE), mode).pixels, pixels)
        other = read_frame(path, (32, 48), mode)
        assert np.array_equal(other.pixels, resize_image(pixels, (32, 48), mode))
        assert (other.name, other.digest) == (path.name, file_digest(path))


@pytest.mark.parametrize("inner", ["", "images", "image"])
def test_frames_lie_in_the_folder_or_in_its_images(inner: str, tmp_path: Path) -> None:
    files = write_frames(tmp_path / inner)
    assert list(find_frames(tmp_path)) == files


@pytest.mark.parametrize("given", [".", "images"])
@pytest.mark.parametrize("name", ["frame_1.png", "frame_1_mask.png", "frame_1_segmentation.png"])
def test_a_frame_with_a_mask_of_its_own_is_refused(given: str, name: str, tmp_path: Path) -> None:
    files = write_frames(tmp_path / "images")
    save_mask(tmp_path / "masks" / "frame_0.png", foreground=False)
    assert len(FrameFiles(find_frames(tmp_path / given))) == len(files)

    save_mask(tmp_path / "masks" / name, foreground=True)
    with pytest.raises(FrameError, match=r"frame_1\.png' has a mask of its own, .*; take the frame out"):
        FrameFiles(find_frames(tmp_path / given))


def test_a_mask_that_a_prompt_file_names_is_the_frames_own(tmp_path: Path) -> None:
    frame, *_ = write_frames(tmp_path)
    save_mask(tmp_path / "drawn" / "by_hand.png", foreground=True)
    entry = {"source": "drawn/by_hand.png", "target": frame.name, "prompt": "a polyp"}
    (tmp_path / "prompt.json").write_text(json.dumps(entry))
    with pytest.raises(FrameError, match=r"frame_0\.png' has a mask of its own"):
        FrameFiles(find_frames(tmp_path))

    # Prompts of images without masks name the image for both.
    (tmp_path / "prompt.json").write_text(json.dumps({**entry, "source": frame.name}))
    assert len(FrameFiles(find_frames(tmp_path))) == 3


def test_a_prompt_file_of_other_images_does_not_matter(tmp_path: Path) -> None:
    files = write_frames(tmp_path)
    entries = [
        {"source": "gone/mask.png", "target": "gone/image.png"},
        {"target": 3},
        {"source": "a\0b", "target": "c"},
    ]
    (tmp_path / "prompt.json").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert find_frames(tmp_path) == dict.fromkeys(files)


def test_what_must_not_be_read_is_left_alone(tmp_path: Path) -> None:
    """A graph's frames lie in a folder that it may read, in a parent that it may not."""
    files = write_frames(tmp_path / "images")
    save_mask(tmp_path / "masks" / "frame_0.png", foreground=True)
    outside = save_mask(tmp_path / "elsewhere" / "mask.png", foreground=True)
    entry = {"source": str(outside), "target": "frame_1.png", "prompt": ""}
    (tmp_path / "images" / "prompt.json").write_text(json.dumps(entry))
    (tmp_path / "prompt.json").write_text(json.dumps({**entry, "target": "images/frame_2.png"}))

    all_of_them = find_frames(tmp_path / "images")
    assert [mask is not None for mask in all_of_them.values()] == [True, True, True]
    readable = tmp_path / "images"
    inside = find_frames(readable, lambda path: path == readable or readable in path.parents)
    assert inside == dict.fromkeys(files)


def test_a_mask_among_the_frames_is_not_taken_for_a_frame(tmp_path: Path) -> None:
    write_frames(tmp_path)
    save_mask(tmp_path / "frame_2_mask.png", foreground=False)
    with pytest.raises(FrameError, match=r"frame_2_mask\.png' looks like the mask of the frame"):
        find_frames(tmp_path)
    (tmp_path / "frame_2_mask.png").rename(tmp_path / "frame_2.bmp")
    with pytest.raises(PairError, match=r"'frame_2\.bmp' and 'frame_2\.png' in .* both stand for 'frame_2'"):
        find_frames(tmp_path)


def test_folders_without_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match=r"is empty; put \.png"):
        find_frames(tmp_path)
    with pytest.raises(FrameError, match="does not exist"):
        find_frames(tmp_path / "nowhere")


def test_a_damaged_frame_is_refused_before_anything_is_generated(tmp_path: Path) -> None:
    write_frames(tmp_path)
    (tmp_path / "frame_3.png").write_bytes(b"no image")
    with pytest.raises(PairError, match=r"frame_3\.png"):
        FrameFiles(find_frames(tmp_path))


def test_a_frame_that_changes_while_running_is_noticed(tmp_path: Path) -> None:
    path, *_ = write_frames(tmp_path)
    frames = FrameFiles(find_frames(tmp_path))
    before = frames.digest
    save(path, np.zeros((SIDE, SIDE, 3), np.uint8))
    with pytest.raises(FrameError, match="the frame has changed since the run began"):
        frames.frame(0, (SIDE, SIDE), "stretch")
    assert FrameFiles(find_frames(tmp_path)).digest != before
