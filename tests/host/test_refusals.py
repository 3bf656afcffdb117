"""Misuse of the nodes: each stops with a sentence that says what to change, and the host goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from siamese_core import shipped
from siamese_core.architecture import Architecture, UNetArchitecture
from siamese_core.weights.key_names import entries
from siamese_core.weights.model_file import ModelFile, load_model, save_model

from .support import graphs
from .support.examples import write_adapter
from .support.server import Host, HostError


@pytest.fixture(autouse=True)
def host_goes_on(host: Host) -> Iterator[None]:
    """After each refusal a sound graph runs."""
    yield
    host.run({"4": graphs.masks(count=1), **graphs.preview(("4", 0))})


def mask_folder(host: Host, name: str, count: int = 2, size: tuple[int, int] = (64, 64)) -> Path:
    folder = host.input_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        values = np.zeros(size, np.uint8)
        values[8:40, 8:40] = 255
        Image.fromarray(values).save(folder / f"mask_{number}.png")
    return folder


def refused(host: Host, graph: graphs.Graph, message: str) -> None:
    with pytest.raises(HostError, match=message) as error:
        host.run(graph)
    assert error.value.failure, "refused by the node itself, not by the host"


def test_more_masks_than_latents(host: Host) -> None:
    graph = {**graphs.model(), "4": graphs.masks(count=3), **graphs.stock_sampling(("4", 0), latents=2)}
    graph["24"] = graphs.saved_latent(("23", 0), "refused")
    refused(host, graph, r"There are 3 masks for 2 latents; give as many latents as masks")


@pytest.mark.parametrize("stock", [False, True])
def test_the_dummy_mask_of_a_picture_without_alpha(host: Host, stock: bool) -> None:
    Image.new("RGB", (128, 128), "white").save(host.input_dir / "opaque.png")
    graph = {**graphs.model(), "4": graphs.node("LoadImage", image="opaque.png")}
    graph |= graphs.stock_sampling(("4", 1)) if stock else {"23": graphs.sampler(("4", 1))}
    graph["24"] = graphs.saved_latent(("23", 0 if stock else 2), "refused")
    refused(host, graph, r"black 64 x 64 one that Load Image gives .* Load Masks")


def test_a_mask_of_another_aspect(host: Host) -> None:
    graph = {**graphs.model(), "4": graphs.masks(count=1, width=192), **graphs.stock_sampling(("4", 0))}
    graph["24"] = graphs.saved_latent(("23", 0), "refused")
    refused(host, graph, r"mask is 192 x 128 pixels and the image to generate 128 x 128: another aspect")


def test_a_mask_that_is_no_multiple_of_64(host: Host) -> None:
    graph = {**graphs.model(), "4": graphs.masks(count=1, width=104), "5": graphs.sampler(("4", 0))}
    graph["6"] = graphs.saved_latent(("5", 2), "refused")
    refused(host, graph, r"104 x 128 pixels, and both sides must be multiples of 64")


@pytest.mark.parametrize("folder", ["", " ", ".", "./", "/", '""'])
def test_no_folder_is_not_the_whole_input_folder(host: Host, folder: str) -> None:
    graph = {"4": graphs.masks(folder), **graphs.preview(("4", 0))}
    refused(host, graph, r"The folder of masks has no name; give that of a folder in ComfyUI's input")


def test_an_empty_folder(host: Host) -> None:
    (host.input_dir / "empty").mkdir(exist_ok=True)
    refused(host, {"4": graphs.masks("empty"), **graphs.preview(("4", 0))}, r"empty' holds no masks; put")


@pytest.mark.parametrize(
    "folder",
    ["../..", "masks/../../output", "/etc", "C:\\Windows", "\\\\server\\share", "link_out", "..\\..\\up"],
)
def test_a_folder_outside_of_the_input_folder(host: Host, folder: str) -> None:
    link = host.input_dir / "link_out"
    if not link.is_symlink():
        link.symlink_to("/")
    graph = {"4": graphs.masks(folder), **graphs.preview(("4", 0))}
    refused(host, graph, r"leads outside of the folder|lies outside of ComfyUI's input folder")


@pytest.mark.parametrize("folder", ["../up", "/tmp/pairs", "D:\\pairs", "a/../../b", "", "."])
def test_saving_outside_of_the_output_folder(host: Host, folder: str) -> None:
    graph = {
        "4": graphs.masks(count=1),
        "5": graphs.node("MaskToImage", mask=("4", 0)),
        "6": graphs.saved_pairs(("5", 0), ("4", 0), folder),
    }
    refused(
        host, graph, r"leads outside of the folder|is an absolute path; give a name|has no name; give one"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 9}, r"holds 8 masks, so there is no 9 from number 0; lower start or count"),
        ({"start": 8}, r"holds 8 masks, so there is no number 8"),
        ({"start": 6, "count": 3}, r"no 3 from number 6"),
    ],
)
def test_a_count_beyond_the_folder(host: Host, changes: dict[str, int], message: str) -> None:
    refused(host, {"4": graphs.masks(**changes), **graphs.preview(("4", 0))}, message)


def test_masks_of_unequal_size_without_a_size(host: Host) -> None:
    mask_folder(host, "unequal", 1)
    Image.new("L", (96, 64), 255).save(host.input_dir / "unequal" / "wide.png")
    graph = {"4": graphs.masks("unequal", width=0, height=0), **graphs.preview(("4", 0))}
    refused(host, graph, r"differ in size \(64 x 64 and 96 x 64\); set width and height")


@pytest.mark.parametrize("kind", ["SiameseSavePairs", "SiamesePreviewPairs"])
def test_unequal_numbers_of_images_and_masks(host: Host, kind: str) -> None:
    graph = {
        "4": graphs.masks(count=3),
        "5": graphs.masks(count=2),
        "6": graphs.node("MaskToImage", mask=("5", 0)),
        "7": graphs.node(kind, images=("6", 0), masks=("4", 0)),
    }
    own = {"folder": "refused", "if_exists": "number", "prompt": ""}
    graph["7"]["inputs"] |= own if kind == "SiameseSavePairs" else {"columns": 4, "outline": True}
    refused(host, graph, r"There are 2 images and 3 masks; connect the IMAGE and the MASK of one")
    assert not (host.output_dir / "refused").exists()


def test_images_and_masks_of_unequal_size(host: Host) -> None:
    graph = {
        "4": graphs.masks(count=1),
        "5": graphs.masks(count=1, width=64),
        "6": graphs.node("MaskToImage", mask=("5", 0)),
        "7": graphs.saved_pairs(("6", 0), ("4", 0), "refused"),
    }
    refused(host, graph, r"Image 1 of 1 is 64 x 128 pixels and its mask 128 x 128; resize one of them")


def test_an_area_that_cannot_be_met(host: Host) -> None:
    graph = {"4": graphs.masks(count=1), "5": graphs.transform(("4", 0), area_min=0.9, area_max=1.0)}
    refused(host, {**graph, **graphs.preview(("5", 0))}, r"50 attempts.*area 0\.9 to 1 failed 50 times")


def adapter_graph(name: str) -> graphs.Graph:
    return {
        **graphs.model(),
        "4": graphs.masks(count=1),
        "7": graphs.node("SiameseApplyAdapter", model=("1", 0), adapter=name, strength=1.0),
        "5": graphs.sampler(("4", 0), model=("7", 0), control_net=("7", 1), steps=1),
        "6": graphs.saved_latent(("5", 2), "adapter"),
    }


def put(host: Host, kind: str, name: str) -> Path:
    folder = host.models_dir / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def test_an_adapter_is_applied_and_a_control_alone_says_so(host: Host) -> None:
    write_adapter(put(host, "controlnet", "good.safetensors"))
    graph = {**adapter_graph("good.safetensors"), "8": graphs.node("PreviewAny", source=("7", 2))}
    (note,) = host.run(graph)["outputs"]["8"]["text"]
    assert "tuned decoder at strength 1" in note

    full = load_model(shipped.MODEL)
    control = ModelFile("control", full.architecture, {"step": 1}, "x", {"control": full.parts["control"]})
    save_model(put(host, "controlnet", "control.safetensors"), control)
    graph = {**adapter_graph("control.safetensors"), "8": graphs.node("PreviewAny", source=("7", 2))}
    (note,) = host.run(graph)["outputs"]["8"]["text"]
    assert "a ControlNet alone: the model stays as it is" in note


def test_an_ordinary_controlnet(host: Host) -> None:
    sparse = Architecture(unet=load_model(shipped.MODEL).architecture.unet, hint_block="sparse")
    weights = {entry.ldm: torch.zeros(entry.ldm_shape) for entry in entries("control", sparse)}
    save_file(weights, put(host, "controlnet", "ordinary.safetensors"))
    refused(host, adapter_graph("ordinary.safetensors"), r"is an ordinary ControlNet, not a Siamese one")


def test_an_adapter_of_another_size(host: Host) -> None:
    wide = Architecture(unet=UNetArchitecture(widths=(32, 32, 64, 64), num_heads=4, context_dim=32))
    weights = {entry.ldm: torch.zeros(entry.ldm_shape) for entry in entries("control", wide)}
    other = ModelFile("control", wide, {"step": 1}, "x", {"control": weights})
    save_model(put(host, "controlnet", "other.safetensors"), other)
    refused(host, adapter_graph("other.safetensors"), r"was trained on a model of another size: '")


def test_an_adapter_of_another_training_target(host: Host) -> None:
    path = write_adapter(put(host, "controlnet", "target.safetensors"))
    graph = adapter_graph(path.name)
    graph["7"]["inputs"]["model"] = ["9", 0]
    graph["9"] = graphs.node("ModelSamplingDiscrete", model=("1", 0), sampling="v_prediction", zsnr=False)
    refused(host, graph, r"a model that predicts the noise, and this model predicts v; load the checkpoint")

    full = load_model(path)
    save_model(path, replace(full, architecture=replace(full.architecture, prediction="v_prediction")))
    host.run(graph)
    graph["7"]["inputs"]["model"] = ["1", 0]
    refused(host, graph, r"predicts v, and this model predicts the noise; .* with v_prediction before this")


def test_a_truncated_file(host: Host) -> None:
    path = write_adapter(put(host, "controlnet", "torn.safetensors"))
    path.write_bytes(path.read_bytes()[:-1000])
    refused(host, adapter_graph("torn.safetensors"), r"torn\.safetensors' is damaged or is not a safetensors")


class Touches:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["controlnet", "checkpoints"])
def test_a_pickle_that_runs_code(host: Host, tmp_path: Path, kind: str) -> None:
    witness = tmp_path / "witness"
    torch.save({"state_dict": {"weight": Touches(witness)}}, put(host, kind, "evil.ckpt"))
    graph = adapter_graph("evil.ckpt")
    if kind == "checkpoints":
        graph = {**graphs.model(), "5": graphs.sampler(("4", 0)), "4": graphs.masks(count=1)}
        graph["1"]["inputs"]["checkpoint"] = "evil.ckpt"
        graph["6"] = graphs.saved_latent(("5", 2), "refused")
    refused(host, graph, r"evil\.ckpt' names '[\w.]+', which is no weight")
    assert not witness.exists()


@pytest.mark.parametrize("place", ["checkpoints", "the pack"])
def test_a_base_opens_and_has_no_controlnet_to_sample_with(host: Host, place: str) -> None:
    name = f"{shipped.BASE.name} (bundled)"
    if place == "checkpoints":
        name = "base.safetensors"
        put(host, "checkpoints", name).write_bytes(shipped.BASE.read_bytes())
    graph = {**graphs.model(), "4": graphs.masks(count=1), "5": graphs.sampler(("4", 0))}
    graph["1"]["inputs"]["checkpoint"] = name
    graph["6"] = graphs.saved_latent(("5", 2), "refused")
    refused(host, graph, r"There is no ControlNet: the checkpoint is a base")


def test_a_checkpoint_that_is_not_there(host: Host) -> None:
    graph = {**graphs.model(), "4": graphs.masks(count=1), "5": graphs.sampler(("4", 0))}
    graph["1"]["inputs"]["checkpoint"] = "gone.safetensors"
    graph["6"] = graphs.saved_latent(("5", 2), "refused")
    with pytest.raises(HostError, match=r"There is no 'gone\.safetensors' in models/checkpoints"):
        host.run(graph)
