"""A dataset's record names what made its images, and a refusal to resume names what has changed."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from siamese_core import shipped
from siamese_core.weights.model_file import load_model, save_model

from .support import graphs
from .support.datasets import dataset, drawn, files, graph, manifest
from .support.server import Host, HostError


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def put_lora(host: Host, name: str, scale: float) -> Path:
    """A LoRA for one layer of the bundled model's decoder."""
    path = host.models_dir / "loras" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    key = "lora_unet_output_blocks_0_0_out_layers_3"
    weights = {f"{key}.lora_up.weight": torch.full((64, 1, 1, 1), scale)}
    weights[f"{key}.lora_down.weight"] = torch.full((1, 64, 3, 3), 0.1)
    save_file(weights, path)
    return path


def with_lora(folder: str, name: str, strength: float = 0.5, **changes: Any) -> graphs.Graph:
    lora = graphs.node("LoraLoaderModelOnly", model=("1", 0), lora_name=name, strength_model=strength)
    return {**graph(folder, model=("8", 0), **changes), "8": lora}


def refusal(host: Host, prompt: graphs.Graph) -> str:
    with pytest.raises(HostError) as error:
        host.run(prompt)
    assert error.value.failure["exception_type"] == "SiameseError"
    message = str(error.value)
    assert "--" not in message
    return message


def test_the_record_names_a_lora_and_its_content(host: Host) -> None:
    path = put_lora(host, "first.safetensors", 1.0)
    host.run(with_lora("with_lora", path.name))
    for line in manifest(host.output_dir / "with_lora"):
        nodes = line["sampler"]["nodes"]
        assert nodes["model"] == ["LoraLoaderModelOnly", 0]
        assert nodes["LoraLoaderModelOnly.lora_name"] == path.name
        assert nodes["LoraLoaderModelOnly.strength_model"] == 0.5
        assert nodes["LoraLoaderModelOnly.model"] == ["SiameseLoadCheckpoint", 0]
        assert nodes[f"content of loras/{path.name}"] == digest(path)
        assert nodes["CLIPTextEncode.text"] == graphs.model()["2"]["inputs"]["text"]

    told = refusal(host, with_lora("with_lora", path.name, strength=0.25))
    assert "'strength_model' of LoraLoaderModelOnly was 0.5 and is now 0.25" in told
    old = digest(path)
    put_lora(host, "first.safetensors", 2.0)
    told = refusal(host, with_lora("with_lora", path.name))
    assert f"the content of loras/first.safetensors was {old[:8]}... and is now {digest(path)[:8]}..." in told
    told = refusal(host, graph("with_lora"))
    assert "'model' was output 0 of LoraLoaderModelOnly and is now output 0 of SiameseLoadCheckpoint" in told


def test_the_record_names_the_content_of_a_picture_in_the_conditioning(host: Host) -> None:
    def hinted(shade: str) -> graphs.Graph:
        Image.new("RGB", (128, 128), shade).save(host.input_dir / "layout.png")
        picture = graphs.node("LoadImage", image="layout.png")
        hint = graphs.node(
            "ControlNetApply", conditioning=("2", 0), control_net=("1", 3), image=("9", 0), strength=0.5
        )
        return {**graph("hinted", positive=("8", 0)), "8": hint, "9": picture}

    host.run(hinted("white"))
    old = digest(host.input_dir / "layout.png")
    for line in manifest(host.output_dir / "hinted"):
        assert line["sampler"]["nodes"]["content of input/layout.png"] == old
    told = refusal(host, hinted("grey"))
    assert f"the content of input/layout.png was {old[:8]}... and is now" in told


def test_what_does_not_change_the_images_may_change(host: Host) -> None:
    first = drawn("same_images", per_mask=1)
    host.run(first)
    before = files(host.output_dir / "same_images")
    # Other ids, as in a subgraph; a preview of other masks; the prompt and a widget from other nodes.
    names = {number: f"1{number}:2" for number in first}
    moved = {
        names[number]: {
            "class_type": node["class_type"],
            "inputs": {
                key: [names[value[0]], value[1]] if isinstance(value, list) else value
                for key, value in node["inputs"].items()
            },
        }
        for number, node in first.items()
    }
    moved[names["4"]]["inputs"]["count"] = 3
    moved[names["5"]]["inputs"]["variants"] = 2
    moved["50"] = graphs.node("PrimitiveStringMultiline", value=moved[names["2"]]["inputs"]["text"])
    moved[names["2"]]["inputs"]["text"] = ["50", 0]
    moved["51"] = graphs.node("PrimitiveInt", value=moved[names["7"]]["inputs"]["steps"])
    moved[names["7"]]["inputs"]["steps"] = ["51", 0]
    host.run(moved)
    assert files(host.output_dir / "same_images") == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cfg": 4.0}, "'cfg' was 3.0 and is now 4.0"),
        ({"sampler_name": "euler"}, "'sampler_name' was 'ddim' and is now 'euler'"),
        ({"invert": True}, "'invert' was False and is now True"),
        ({"label": 255}, "'label' was 0 and is now 255"),
        ({"seed": 12}, "'seed' was 11 and is now 12"),
        ({"prompt": "b"}, "'prompt' was 'a fluorescence image of nuclei' and is now 'b'"),
        ({"batch_size": 2}, "'batch_size' was 3 and is now 2"),
    ],
)
def test_a_changed_widget_is_named_with_both_values(host: Host, changes: dict[str, Any], told: str) -> None:
    host.run(graph("one_widget"))
    message = refusal(host, graph("one_widget", **changes))
    assert f"The folder 'one_widget' holds a dataset that was begun with other settings: {told}" in message
    assert "Put that back to resume the dataset, or give another folder." in message


def test_a_changed_prompt_and_transform_are_named(host: Host) -> None:
    host.run(drawn("named", per_mask=1))
    other = drawn("named", per_mask=1)
    other["2"]["inputs"]["text"] = "something else"
    other["5"]["inputs"]["rotate"] = 33.0
    other["5"]["inputs"]["beyond"] = "mirrored"
    told = refusal(host, other)
    assert "'rotate' of Random Mask Transform was 20.0 and is now 33.0" in told
    assert "'beyond' of Random Mask Transform was 'background' and is now 'mirrored'" in told
    assert "'text' of CLIPTextEncode was 'a fluorescence image of nuclei' and is now 'something else'" in told


def test_a_changed_mask_file_is_named(host: Host) -> None:
    folder = host.input_dir / "changing_masks"
    folder.mkdir()
    for number in range(2):
        Image.fromarray(np.eye(128, k=number, dtype=np.uint8) * 255).save(folder / f"m{number}.png")
    host.run(graph("of_masks", masks="changing_masks"))
    Image.fromarray(np.tri(128, dtype=np.uint8) * 255).save(folder / "m1.png")
    assert "the mask 'm1.png' was" in refusal(host, graph("of_masks", masks="changing_masks"))
    (folder / "m1.png").unlink()
    assert "the mask 'm1.png' is no longer there" in refusal(host, graph("of_masks", masks="changing_masks"))


def test_a_checkpoint_that_is_replaced_under_its_name_is_loaded_anew(host: Host) -> None:
    path = host.models_dir / "checkpoints" / "replaced.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(shipped.MODEL, path)

    def prompt(folder: str) -> graphs.Graph:
        made = graph(folder)
        made["1"]["inputs"]["checkpoint"] = path.name
        return made

    host.run(prompt("first_file"))
    model = load_model(path)
    unet = {key: value * 1.05 for key, value in model.parts["unet"].items()}
    other = path.with_name("other.safetensors")
    save_model(other, replace(model, parts={**model.parts, "unet": unet}, run_id="another-run"))
    other.replace(path)
    host.run(prompt("second_file"))

    first, second = (manifest(host.output_dir / name)[0] for name in ("first_file", "second_file"))
    assert (first["checkpoint_digest"], first["run_id"]) == (
        digest(shipped.MODEL),
        load_model(shipped.MODEL).run_id,
    )
    assert (second["checkpoint_digest"], second["run_id"]) == (digest(path), "another-run")
    images = [host.output_dir / name / "images" / "example_1.png" for name in ("first_file", "second_file")]
    assert images[0].read_bytes() != images[1].read_bytes()
    told = refusal(host, prompt("first_file"))
    assert f"the model file was {digest(shipped.MODEL)[:8]}... and is now {digest(path)[:8]}..." in told


def test_a_dataset_that_an_earlier_version_began_is_resumed(host: Host) -> None:
    """Its settings hold a digest of the nodes before, ids included, and no list of them."""
    begun = drawn("of_old", per_mask=1, prompt="")
    host.run(begun)
    settings = host.output_dir / "of_old" / ".run" / "settings.json"
    record = json.loads(settings.read_text("utf-8"))
    before = {number: (node["class_type"], node["inputs"]) for number, node in begun.items() if number != "7"}
    text = json.dumps(before, sort_keys=True)
    record |= {"nodes_before": hashlib.sha256(text.encode()).hexdigest(), "prompt": ""}
    del record["nodes"]
    settings.write_text(json.dumps(record), "utf-8")

    # The page adds the inputs that a node got since.
    begun["5"]["inputs"]["beyond"] = "background"
    host.run(begun)
    other = copy.deepcopy(begun)
    other["2"]["inputs"]["text"] = "something else"
    assert "a node before this one (which, an earlier version" in refusal(host, other)


def test_a_typed_folder_feeds_preview_and_dataset(host: Host) -> None:
    shown = dataset("primitive", masks=("9", 0))
    host.run({**graphs.model(), "7": shown, "9": graphs.node("PrimitiveString", value="(bundled examples)")})
    assert len(manifest(host.output_dir / "primitive")) == 8
