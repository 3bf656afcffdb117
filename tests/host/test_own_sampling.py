"""A size and guidance scale of 0 are the model's own; what was used, or looks wrong, is said on the node."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from siamese_core import shipped
from siamese_core.weights.model_file import load_model, save_model

from .support import graphs
from .support.datasets import dataset, manifest
from .support.examples import latent
from .support.server import Host, HostError


def put_with_record(host: Host, name: str, **training: object) -> str:
    """The bundled model under another name, its record with ``training`` in it."""
    path = host.models_dir / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    model = load_model(shipped.MODEL)
    save_model(path, replace(model, training={**model.training, **training}))
    return name


def sampled(checkpoint: str | None = None, **sampler: object) -> graphs.Graph:
    """A mask of the size of the connected model, and its image."""
    graph = {**graphs.model(), "4": graphs.masks(count=1, width=0, height=0, model=("1", 0))}
    if checkpoint:
        graph["1"]["inputs"]["checkpoint"] = checkpoint
    return {**graph, "5": graphs.sampler(("4", 0), steps=2, **sampler)}


def test_no_size_and_no_guidance_are_those_of_the_files_record(host: Host) -> None:
    name = put_with_record(host, "recorded.safetensors", resolution=64, guidance=2.5)
    host.run({**sampled(name, cfg=0.0), "6": graphs.saved_latent(("5", 2), "own_0")})
    assert "1 images, 64 x 64 pixels, cfg 2.5" in host.text_on("5")

    host.run({**sampled(name, cfg=2.5), "6": graphs.saved_latent(("5", 2), "own_2_5")})
    assert latent(host, "own_0").shape == (1, 4, 8, 8)
    assert torch.equal(latent(host, "own_0"), latent(host, "own_2_5"))


def test_the_loader_tells_size_guidance_and_prompts_of_the_training(host: Host) -> None:
    shares = {"a round polyp": 0.75, "a flat polyp": 0.25}
    name = put_with_record(host, "prompts.safetensors", resolution=64, guidance=2.5, prompts=shares)
    host.run({**sampled(name, cfg=0.0), "6": graphs.saved_latent(("5", 2), "own_prompts")})
    told = ["trained at 64 x 64 pixels, own cfg 2.5.", "75%: a round polyp.", "25%: a flat polyp."]
    assert host.text_on("1").splitlines() == told


def test_a_small_model_without_a_recorded_guidance_takes_3(host: Host) -> None:
    host.run({**sampled(cfg=0.0), "6": graphs.saved_latent(("5", 2), "own_3")})
    assert "128 x 128 pixels, cfg 3" in host.text_on("5")


def test_a_dataset_takes_size_and_guidance_of_the_model(host: Host) -> None:
    settings = {"width": 0, "height": 0, "cfg": 0.0, "prompt": ""}
    host.run({**graphs.model(), "7": dataset("own_settings", **settings)})
    lines = manifest(host.output_dir / "own_settings")
    assert {(line["sampler"]["width"], line["sampler"]["height"]) for line in lines} == {(128, 128)}
    assert {line["sampler"]["guidance"] for line in lines} == {3.0}
    assert {line["prompt"] for line in lines} == {graphs.model()["2"]["inputs"]["text"]}
    told = host.text_on("7")
    assert f"{len(lines)} pairs in output/own_settings" in told
    assert "128 x 128 pixels, cfg 3" in told


@pytest.mark.parametrize(
    ("branches", "hints"),
    [("joint", "its mask at strength 0.5 and its image at 1"), ("image", "the image at strength 1")],
)
def test_a_model_that_needs_images_is_not_sampled_with_masks_alone(
    host: Host, branches: str, hints: str
) -> None:
    name = put_with_record(host, f"{branches}.safetensors", branches=branches, mask_weight=0.5)
    latents = {"6": graphs.saved_latent(("5", 2), "refused")}
    with pytest.raises(
        HostError, match=rf"trained with images in its hint.* give it {hints}, through Apply ControlNet"
    ):
        host.run({**sampled(name, cfg=0.0), **latents})
    assert f"samples with {hints}" in host.text_on("1")
    graph = {**graphs.model(), "7": dataset(f"refused_{branches}")}
    graph["1"]["inputs"]["checkpoint"] = name
    with pytest.raises(HostError, match=r"trained with images in its hint"):
        host.run(graph)
    assert not (host.output_dir / f"refused_{branches}").exists()


@pytest.mark.parametrize("cfg", [0.5, 0.01])
def test_a_guidance_scale_between_0_and_1_is_refused(host: Host, cfg: float) -> None:
    with pytest.raises(HostError, match=r"'cfg' is 0\.\d+; give 0 for the model's own"):
        host.run({**sampled(cfg=cfg), "6": graphs.saved_latent(("5", 2), "refused")})


def test_another_size_than_the_models_is_told_on_the_node(host: Host) -> None:
    graph = {**sampled(cfg=0.0), "4": graphs.masks(count=1, width=64, height=64)}
    host.run({**graph, "6": graphs.saved_latent(("5", 2), "small")})
    told = "64 x 64 pixels, but the model was trained at 128 x 128"
    assert told in host.text_on("5")

    host.run({**graphs.model(), "7": dataset("small_dataset", width=64, height=64)})
    assert told in host.text_on("7")


def grey_mask(host: Host, name: str, value: int) -> str:
    Image.fromarray(np.full((128, 128), value, np.uint8)).save(host.input_dir / name)
    return name


@pytest.mark.parametrize("stock", [False, True])
def test_a_mask_without_foreground_is_told_on_the_node_that_samples(host: Host, stock: bool) -> None:
    opaque = Image.new("RGBA", (128, 128), "white")
    opaque.save(host.input_dir / "opaque_rgba.png")
    loaders = {
        "opaque": graphs.node("LoadImage", image="opaque_rgba.png"),
        "grey": graphs.node("LoadImageMask", image=grey_mask(host, "grey.png", 100), channel="red"),
    }
    for name, loader in loaders.items():
        mask = ("4", 1 if name == "opaque" else 0)
        graph = {**graphs.model(), "4": loader}
        graph |= graphs.stock_sampling(mask, steps=1) if stock else {"23": graphs.sampler(mask, steps=1)}
        graph["24"] = graphs.saved_latent(("23", 0 if stock else 2), f"no_foreground_{name}_{stock}")
        host.run(graph)
        assert "1 of 1 masks (first: number 1) without foreground: no value exceeds one half" in host.text_on(
            "23"
        ), name


def test_load_masks_tells_how_many_masks_are_empty(host: Host) -> None:
    folder = host.input_dir / "partly_empty"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.full((64, 64), 255 if number == 1 else 0, np.uint8)).save(folder / f"{number}.png")
    host.run({"4": graphs.masks("partly_empty"), **graphs.preview(("4", 0))})
    assert "2 of 3 masks without any foreground (first: 0.png)" in host.text_on("4")


def test_save_pairs_says_where_the_pairs_are_and_takes_the_prompt_of_the_graph(host: Host) -> None:
    graph = {**sampled(cfg=0.0), "6": graphs.saved_pairs(("5", 0), ("5", 1), "told", prompt="")}
    entry = host.run(graph)
    assert "1 of 1 pairs written to output/told" in host.text_on("6")
    assert entry["outputs"]["6"]["images"]
    (line,) = (host.output_dir / "told" / "prompt.json").read_text("utf-8").splitlines()
    assert json.loads(line)["prompt"] == graphs.model()["2"]["inputs"]["text"]


def test_a_finished_dataset_shows_its_last_pairs_when_queued_again(host: Host) -> None:
    graph = {**graphs.model(), "7": dataset("shown_again")}
    host.run(graph)
    entry = host.run(graph)
    (shown,) = entry["outputs"]["7"]["images"]
    with Image.open(host.folder / shown["type"] / shown["subfolder"] / shown["filename"]) as sheet:
        assert sheet.width > 3 * 128 and np.asarray(sheet).std() > 10
    assert Path(host.output_dir / "shown_again" / "manifest.jsonl").is_file()
