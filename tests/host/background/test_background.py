"""Real frames around what the nodes generate: from an image, a batch or a folder, and in datasets."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from siamese_core import shipped
from siamese_core.files import file_digest
from siamese_core.method.background_blending import blend_weights
from siamese_core.seeds import stream_seed
from tests.support.datasets.pair_files import save

from ..conftest import PACK, ROOT
from ..support import graphs
from ..support.datasets import SMALL, files, graph, manifest
from ..support.examples import example
from ..support.server import Host, HostError, Installation, Interrupted

SIDE, BLEND, COUNT = 128, 6, 4


def real_images() -> list[Path]:
    return sorted((shipped.HELD_OUT / "images").iterdir())[:3]


def frames_in(folder: Path) -> list[Path]:
    """Three real frames, the last of another size."""
    folder.mkdir(parents=True)
    for number, path in enumerate(real_images()):
        with Image.open(path) as image:
            side = SIDE if number < 2 else 160
            image.convert("RGB").resize((side, side)).save(folder / f"frame_{number}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def frames(host: Host) -> list[Path]:
    return frames_in(host.input_dir / "frames")


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def around(mask: np.ndarray) -> np.ndarray:
    """The pixels outside of ``mask`` and the blend."""
    return blend_weights(torch.from_numpy(mask)[None], BLEND)[0].numpy() == 0


def sampled(name: str, **changes: Any) -> graphs.Graph:
    """Nodes that sample the first examples and save them in ``name``."""
    return {
        f"{name}_5": graphs.sampler(("4", 0), **{"blend": BLEND, **changes}),
        f"{name}_6": graphs.saved_pairs((f"{name}_5", 0), (f"{name}_5", 1), name),
    }


def images_of(host: Host, name: str) -> list[np.ndarray]:
    return [read(path) for path in sorted((host.output_dir / name / "images").iterdir())]


def test_outside_of_mask_and_blend_a_sample_is_the_image(host: Host, frames: list[Path]) -> None:
    frame = graphs.node("LoadImage", image="frames/frame_0.png")
    whole = sampled("without", batch_size=COUNT)
    prompt = {**graphs.model(), "4": graphs.masks(count=COUNT), "8": frame, **whole}
    for sampler in ("ddim", "dpmpp_2m"):
        prompt |= sampled(f"over_{sampler}", background=("8", 0), sampler_name=sampler)
    host.run(prompt)

    for sampler in ("ddim", "dpmpp_2m"):
        for number, image in enumerate(images_of(host, f"over_{sampler}"), start=1):
            mask = example(number)
            assert np.array_equal(image[around(mask)], read(frames[0])[around(mask)])
            assert (image[mask] != read(frames[0])[mask]).any()
    # A frame is another surrounding for the lesion, but the noise that it is made of is its own.
    for image, free in zip(images_of(host, "over_ddim"), images_of(host, "without"), strict=True):
        assert (image != free).any()


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_a_sample_over_a_frame_does_not_depend_on_its_batch(
    sampler: str, host: Host, frames: list[Path]
) -> None:
    """The host's own ddim draws noise around a mask for the batch as a whole."""
    prompt: graphs.Graph = {**graphs.model(), "4": graphs.masks(count=COUNT)}
    for size in (1, 2, 4):
        changes = {"batch_size": size, "sampler_name": sampler, "background_folder": "frames"}
        prompt |= sampled(f"{sampler}_{size}", **changes)
    host.run(prompt)
    one, two, four = (images_of(host, f"{sampler}_{size}") for size in (1, 2, 4))
    for alone, *batched in zip(one, two, four, strict=True):
        for image in batched:
            assert np.abs(np.subtract(alone, image, dtype=int)).max() <= 1


def test_a_folder_and_a_batch_of_the_same_frames_give_the_same_samples(
    host: Host, frames: list[Path]
) -> None:
    prompt: graphs.Graph = {**graphs.model(), "4": graphs.masks(count=COUNT)}
    folder = host.input_dir / "equal_frames"
    folder.mkdir()
    for number in (0, 1):
        shutil.copy(frames[number], folder)
        prompt[f"8{number}"] = graphs.node("LoadImage", image=f"frames/frame_{number}.png")
    prompt["82"] = graphs.node("ImageBatch", image1=("80", 0), image2=("81", 0))
    prompt |= sampled("of_a_batch", background=("82", 0))
    prompt |= sampled("of_a_folder", background_folder="equal_frames")
    host.run(prompt)
    pairs = zip(images_of(host, "of_a_batch"), images_of(host, "of_a_folder"), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)


def test_a_folder_of_frames_is_read_again_when_it_changes(host: Host, frames: list[Path]) -> None:
    folder = host.input_dir / "changing_frames"
    folder.mkdir()
    prompt = {**graphs.model(), "4": graphs.masks(count=1)}
    for number in (0, 1):
        shutil.copy(frames[number], folder / "frame.png")
        changing = sampled("changing", background_folder="changing_frames", steps=1)
        host.run({**prompt, **changing})
    before, after = images_of(host, "changing")
    assert np.array_equal(before[around(example(1))], read(frames[0])[around(example(1))])
    assert np.array_equal(after[around(example(1))], read(frames[1])[around(example(1))])


@pytest.mark.parametrize("given", [{}, {"background_folder": ""}])
def test_a_graph_without_frames_is_not_run_again(given: dict[str, Any], host: Host) -> None:
    """Neither one that was saved before there were such inputs."""
    sampler = graphs.sampler(("4", 0), steps=1, seed=3 + len(given), **given)
    prompt = {**graphs.model(), "4": graphs.masks(count=1), "5": sampler}
    prompt["6"] = graphs.saved_latent(("5", 2), f"kept_{len(given)}")
    host.run(prompt)
    messages = dict(host.run(prompt)["status"]["messages"])
    assert "5" in messages["execution_cached"]["nodes"]


def dataset(folder: str, **changes: Any) -> graphs.Graph:
    return graph(folder, **{"background_folder": "frames", "blend": BLEND, "per_mask": 2, **changes})


def test_a_dataset_says_which_frame_a_pair_lies_in(host: Host, frames: list[Path]) -> None:
    host.run(dataset("over_frames"))
    folder = host.output_dir / "over_frames"
    lines = manifest(folder)
    assert len(lines) == 16
    for line in lines:
        image, mask = (folder / file["name"] for file in line["files"])
        frame = frames[stream_seed(11, "background", line["index"]) % 3]
        told = {key: line["sampler"][key] for key in ("background", "background_digest", "blend")}
        assert told == {"background": frame.name, "background_digest": file_digest(frame), "blend": BLEND}
        outside = around(read(mask)[..., 0] > 0)
        if read(frame).shape[0] == SIDE:
            assert np.array_equal(read(image)[outside], read(frame)[outside])

    with pytest.raises(HostError, match="'blend' was 6 and is now 7"):
        host.run(dataset("over_frames", blend=7))
    save(host.input_dir / "other_frames" / "frame.png", read(frames[0]))
    with pytest.raises(HostError, match="the content of the background was"):
        host.run(dataset("over_frames", background_folder="other_frames"))


def test_a_dataset_without_frames_records_none(host: Host) -> None:
    host.run(graph("no_frames"))
    settings = (host.output_dir / "no_frames" / ".run" / "settings.json").read_text()
    assert "background" not in settings and "blend" not in settings
    assert not any("blend" in line["sampler"] for line in manifest(host.output_dir / "no_frames"))


@pytest.mark.slow
def test_a_killed_and_a_cancelled_dataset_over_frames_end_as_the_uninterrupted_one(
    installation: Installation, tmp_path: Path
) -> None:
    prompt = dataset("set", chunk_size=3, steps=3, **SMALL)
    frames_in(tmp_path / "reference" / "input" / "frames")
    with Host(installation, tmp_path / "reference", {PACK: ROOT}) as host:
        host.run(prompt)
        wanted = files(host.output_dir / "set")
    frames_in(tmp_path / "killed" / "input" / "frames")
    parts = tmp_path / "killed" / "output" / "set" / ".run" / "parts"
    for way in ("cancelled", "killed"):
        with Host(installation, tmp_path / "killed", {PACK: ROOT}) as host:
            known = len(list(parts.glob("*")))
            prompt_id = host.queue(prompt)
            while len(list(parts.glob("*"))) <= known:
                time.sleep(0.02)
            if way == "killed":
                host.kill()
                continue
            host.interrupt()
            with pytest.raises(Interrupted):
                host.wait(prompt_id)
    with Host(installation, tmp_path / "killed", {PACK: ROOT}) as host:
        host.run(prompt)
        assert files(host.output_dir / "set") == wanted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"background_folder": "frames", "background": ("8", 0)}, "use one of the two"),
        ({"background_folder": "own_masks"}, "has a mask of its own"),
        ({"background_folder": "."}, "The folder of frames has no name"),
        ({"background_folder": "not_there"}, "does not exist; check the path"),
        ({"background_folder": "../outside"}, "leads outside of the folder"),
        ({"background_folder": "/etc"}, "lies outside of ComfyUI's input folder"),
        ({"background_folder": "frames", "blend": 257}, "blend"),
    ],
)
@pytest.mark.parametrize("kind", ["sampler", "dataset"])
def test_frames_that_cannot_be_meant_are_refused(
    kind: str, changes: dict[str, Any], message: str, host: Host, frames: list[Path]
) -> None:
    if not (host.input_dir / "own_masks").exists():
        save(host.input_dir / "own_masks" / "images" / "a.png", read(frames[0]))
        save(host.input_dir / "own_masks" / "masks" / "a.png", np.full((SIDE, SIDE), 255, np.uint8))
    prompt = {**graphs.model(), "4": graphs.masks(count=1)}
    prompt["8"] = graphs.node("LoadImage", image="frames/frame_0.png")
    prompt |= sampled("refused", **changes) if kind == "sampler" else graph("refused", **changes)
    with pytest.raises(HostError, match=message):
        host.run(prompt)
    assert not (host.output_dir / "refused").exists()
