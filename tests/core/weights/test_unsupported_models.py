"""Models that look like Stable Diffusion 1.x or 2.x and are not: each is refused in words of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from siamese_core.diffusers_backend import base_model as base_module
from siamese_core.diffusers_backend.base_model import BaseError, load_base, local_base
from siamese_core.errors import CheckpointError
from siamese_core.weights.diffusers_folder import read_model
from siamese_core.weights.model_file import load_model
from tests.support.commands import run_here
from training import make_base

UNET = "model.diffusion_model."
FIRST = f"{UNET}input_blocks.0.0.weight"
MIDDLE = f"{UNET}middle_block.1.proj_in.weight"
LABELS = f"{UNET}label_emb.0.0.weight"

FILES: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "sdxl": (
        {"conditioner.embedders.1.model.ln_final.weight": (8,)},
        "Stable Diffusion XL. It would",
    ),
    "sdxl's unet": (
        {LABELS: (8, 8), f"{UNET}input_blocks.4.1.transformer_blocks.1.norm1.weight": (8,)},
        "Stable Diffusion XL.",
    ),
    "unclip": ({LABELS: (8, 8)}, "an unCLIP model"),
    "inpainting": (
        {FIRST: (8, 9, 3, 3), MIDDLE: (8, 8)},
        "an inpainting model: .* \\(9 channels in, 4 out",
    ),
    "pix2pix": ({FIRST: (8, 8, 3, 3), MIDDLE: (8, 8)}, "a model that edits images"),
    "depth": ({FIRST: (8, 5, 3, 3), MIDDLE: (8, 8)}, "also takes a depth map"),
    "upscaler": ({FIRST: (8, 7, 3, 3), MIDDLE: (8, 8)}, "an upscaling model"),
    "other channels": ({FIRST: (8, 16, 3, 3), MIDDLE: (8, 8)}, "not one of latents alone \\(16 channels"),
    "lcm": ({f"{UNET}time_embed.cond_proj.weight": (8, 8)}, "a latent consistency model"),
    "transformer": ({f"{UNET}joint_blocks.0.x": (8,)}, "a diffusion transformer"),
    "distilled": (
        {FIRST: (8, 4, 3, 3), f"{UNET}input_blocks.1.1.proj_in.weight": (8, 8, 1, 1)},
        "no middle block: a distilled",
    ),
}

Change = Callable[[Path], None]


def edit_json(path: Path, **changes: Any) -> None:
    found = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**found, **changes}), "utf-8")


FOLDERS: dict[str, tuple[Change, str]] = {
    "sdxl": (
        lambda folder: edit_json(folder / "model_index.json", text_encoder_2=["transformers", "X"]),
        "Stable Diffusion XL",
    ),
    "sdxl's unet": (
        lambda folder: edit_json(folder / "unet" / "config.json", addition_embed_type="text_time"),
        "Stable Diffusion XL",
    ),
    "lcm": (
        lambda folder: edit_json(folder / "unet" / "config.json", time_cond_proj_dim=256),
        "a latent consistency model",
    ),
    "lcm scheduler": (
        lambda folder: edit_json(folder / "model_index.json", scheduler=["diffusers", "LCMScheduler"]),
        "a latent consistency model",
    ),
    "distilled": (
        lambda folder: edit_json(folder / "unet" / "config.json", mid_block_type=None),
        "a UNet of another shape",
    ),
}


@pytest.fixture
def folder(base_folder: Path, tmp_path: Path) -> Path:
    """A copy of a diffusers folder, to be changed."""
    return Path(shutil.copytree(base_folder, tmp_path / "copy"))


@pytest.mark.parametrize("family", FILES)
def test_a_file_of_another_family_is_named_as_one(family: str, tmp_path: Path) -> None:
    shapes, sentence = FILES[family]
    path = tmp_path / "other.safetensors"
    tensors = {key: torch.zeros(shape) for key, shape in shapes.items()}
    save_file({f"{UNET}some.weight": torch.zeros(1), **tensors}, path)

    with pytest.raises(CheckpointError, match=sentence) as raised:
        load_model(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("family", FOLDERS)
def test_a_folder_of_another_family_is_named_as_one(family: str, folder: Path) -> None:
    change, sentence = FOLDERS[family]
    change(folder)

    with pytest.raises(CheckpointError, match=f"copy: .*{sentence}"):
        load_base(folder)


def test_one_part_of_a_model_is_no_model(folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"unet: one part of a model \(UNet2DConditionModel\); give the"
    ):
        read_model(folder / "unet")


def test_what_training_sees_in_a_single_file_is_the_file_and_no_hub(
    single_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_module, "snapshot_download", pytest.fail)
    path = tmp_path / "v1-5.ckpt"
    torch.save({"state_dict": load_file(single_base)}, path)

    assert load_base(single_base).tokenizer is not None
    found, expected = load_model(path), load_model(single_base)
    assert all(torch.equal(found.parts["unet"][k], value) for k, value in expected.parts["unet"].items())


def test_a_hub_name_is_asked_for_when_nothing_of_that_name_is_here(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(name: str, **_: Any) -> str:
        asked.append(name)
        return str(base_folder)

    monkeypatch.setattr(base_module, "snapshot_download", download)

    assert load_base(Path("someone/some-model")).architecture == load_base(base_folder).architecture
    assert asked == ["someone/some-model"]
    for path in ("someone/model.safetensors", "someone/model.ckpt", "model", "a/b/c"):
        with pytest.raises(BaseError, match="no such base"):
            local_base(Path(path))
    assert asked == ["someone/some-model"]


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise OSError("no route to host\nand much more")

    monkeypatch.setattr(base_module, "snapshot_download", download)

    with pytest.raises(BaseError, match=r"a/b: no file .* did not give it \(no route to host\); download"):
        load_base(Path("a/b"))


def test_a_base_that_predicts_v_is_no_start_for_making_one(folder: Path, pairs: Path, tmp_path: Path) -> None:
    edit_json(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    flags = ("--images", pairs / "images", "--output", tmp_path / "o", "--init", folder, "--resolution", 64)

    assert "predicts v, and bases made here predict the noise" in run_here(make_base.main, *flags).refusal


OTHER_FILES = {
    "lora_unet_down_blocks_0.lora_up.weight": "this is a LoRA",
    "unet.up_blocks.0.attn.lora_A.weight": "this is a LoRA",
    "first_stage_model.decoder.conv_in.weight": "this is a VAE alone",
    "decoder.up_blocks.0.resnets.0.conv1.weight": "this is a VAE alone",
    "text_model.encoder.layers.0.mlp.fc1.weight": "this is a text encoder alone",
    "up_blocks.0.resnets.0.conv1.weight": "this is a UNet alone",
    "controlnet_cond_embedding.0.weight": "this is a piece of a training checkpoint",
    "emb_params": "this is a textual inversion",
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_a_file_of_something_else_is_called_that(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_file({name: torch.zeros(4, 4)}, path)
    with pytest.raises(CheckpointError, match=OTHER_FILES[name]):
        load_model(path)


def test_a_base_with_values_that_are_not_finite_is_refused(single_base: Path, tmp_path: Path) -> None:
    tensors = load_file(single_base)
    name = sorted(key for key in tensors if key.startswith(UNET))[0]
    tensors[name] = tensors[name].clone().fill_(float("nan"))
    path = tmp_path / "base.safetensors"
    with safe_open(single_base, "pt") as file:
        save_file(tensors, path, file.metadata())
    with pytest.raises(BaseError, match=r"base\.safetensors: its weight '.*' has values that are not finite"):
        load_base(path)
