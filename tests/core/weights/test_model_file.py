from __future__ import annotations

import json
import pickle
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from siamese_core.architecture import Architecture
from siamese_core.weights.model_file import CheckpointError, FileKind, ModelFile, load_model, save_model
from siamese_core.weights.tensor_files import read_metadata
from tests.support.model_files import SMALL, TRAINING, make_model

FC1_BIAS = "transformer.text_model.encoder.layers.0.mlp.fc1.bias"


def with_weight(model: ModelFile, part: str, key: str, value: Tensor) -> ModelFile:
    return replace(model, parts={**model.parts, part: {**model.parts[part], key: value}})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, make_model("base"))
    return path


def rewrite(path: Path, changes: dict[str, Tensor | None], *, metadata: dict[str, str] | None) -> None:
    """Replace, add or (None) remove keys of a file as another program would."""
    tensors = {key: value.clone() for key, value in load_file(path).items()} | changes
    save_file({key: value for key, value in tensors.items() if value is not None}, path, metadata)


@pytest.mark.parametrize("kind", ["full", "adapter", "control", "base"])
def test_a_model_of_each_kind_survives_saving_and_loading(kind: FileKind, tmp_path: Path) -> None:
    path = tmp_path / "models" / "new" / "model.safetensors"
    model = make_model(kind)
    save_model(path, model, dtype=torch.float32)
    loaded = load_model(path)
    assert replace(loaded, parts={}) == replace(model, parts={})
    assert loaded.parts.keys() == model.parts.keys()
    for part, weights in model.parts.items():
        assert loaded.parts[part].keys() == weights.keys()
        assert all(torch.equal(loaded.parts[part][key], weights[key]) for key in weights)


def test_a_loaded_model_can_be_saved_again_without_any_change(saved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    save_model(again, load_model(saved))
    first, second = load_file(saved), load_file(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert read_metadata(again) == read_metadata(saved)


def test_weights_are_stored_in_half_precision_and_in_the_merged_layout(saved: Path) -> None:
    tensors = load_file(saved)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert tensors["model.diffusion_model.out.2.weight"].shape == (4, 32, 3, 3)
    assert f"cond_stage_model.{FC1_BIAS}" in tensors
    assert load_model(saved).parts["vae"]["quant_conv.weight"].dtype == torch.float16


def test_weights_in_another_memory_format_are_saved(tmp_path: Path) -> None:
    model = make_model("base")
    conv = model.parts["vae"]["decoder.conv_out.weight"]
    path = tmp_path / "model.safetensors"
    save_model(
        path,
        with_weight(
            model, "vae", "decoder.conv_out.weight", conv.contiguous(memory_format=torch.channels_last)
        ),
    )
    assert torch.equal(load_model(path).parts["vae"]["decoder.conv_out.weight"], conv.half())


def test_the_metadata_says_what_the_weights_cannot(saved: Path) -> None:
    metadata = read_metadata(saved)
    assert metadata["format"] == "pt"
    assert metadata["siamese.kind"] == "base"
    assert metadata["siamese.run_id"] == "run-7"
    assert Architecture.from_json(metadata["siamese.architecture"]) == SMALL
    assert json.loads(metadata["siamese.training"]) == TRAINING


def test_a_saved_model_is_as_readable_as_any_other_file(saved: Path) -> None:
    other = saved.with_name("other")
    other.touch()
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


@pytest.mark.parametrize(
    ("value", "advice"), [(1e6, "too large for float16; save as fp32"), (float("nan"), "not finite")]
)
def test_values_that_half_precision_cannot_hold_are_refused_and_nothing_is_left_behind(
    value: float, advice: str, tmp_path: Path
) -> None:
    model = with_weight(make_model("base"), "text", FC1_BIAS, torch.full((64,), value))
    with pytest.raises(CheckpointError, match=advice) as raised:
        save_model(tmp_path / "model.safetensors", model)
    assert f"cond_stage_model.{FC1_BIAS}" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_values_too_large_for_half_precision_can_be_saved_as_fp32(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = with_weight(make_model("base"), "text", FC1_BIAS, torch.full((64,), 1e6))
    save_model(path, model, dtype=torch.float32)
    assert load_model(path).parts["text"][FC1_BIAS][0] == 1e6


def test_an_incomplete_model_is_not_saved_over_a_good_one(saved: Path) -> None:
    before = saved.read_bytes()
    incomplete = make_model("base")
    del incomplete.parts["text"][FC1_BIAS]
    with pytest.raises(CheckpointError, match=r"was not written: text .* 1 missing .*fc1\.bias"):
        save_model(saved, incomplete)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    target.mkdir()
    with pytest.raises(OSError):
        save_model(target, make_model("adapter"))
    assert list(tmp_path.iterdir()) == [target]


def test_a_model_with_parts_of_another_kind_is_not_saved(tmp_path: Path) -> None:
    model = replace(make_model("base"), kind="full")
    with pytest.raises(CheckpointError, match=r"'full' holds control, text, unet, vae, this one text, unet"):
        save_model(tmp_path / "model.safetensors", model)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model.diffusion_model.out.2.bias": None}, r"unet .* 1 missing \(out\.2\.bias\)"),
        ({"first_stage_model.extra": torch.zeros(1)}, r"vae .* 1 unexpected \(extra\)"),
        ({"betas": torch.zeros(1)}, r"1 unexpected keys \(betas\)"),
        ({f"cond_stage_model.{FC1_BIAS}": torch.zeros(3)}, r"fc1\.bias is \(3,\) instead of \(64,\)"),
    ],
    ids=["missing", "unexpected", "of no part", "misshapen"],
)
def test_a_file_of_ours_that_does_not_fit_its_architecture_is_refused(
    changes: dict[str, Tensor | None], complaint: str, saved: Path
) -> None:
    rewrite(saved, changes, metadata=read_metadata(saved))
    with pytest.raises(CheckpointError, match=complaint) as raised:
        load_model(saved)
    assert str(saved) in str(raised.value)


@pytest.mark.parametrize("key", ["siamese.kind", "siamese.architecture", "siamese.training"])
def test_a_file_with_spoilt_metadata_is_refused(key: str, saved: Path) -> None:
    rewrite(saved, {}, metadata={**read_metadata(saved), key: "spoilt"})
    with pytest.raises(CheckpointError, match="metadata cannot be read"):
        load_model(saved)


@pytest.mark.parametrize("kept", [0, 5, 60, -1], ids=["empty", "no length", "half a header", "a byte short"])
def test_a_truncated_file_is_refused(kept: int, saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    for read in (load_model, read_metadata):
        with pytest.raises(CheckpointError, match="is damaged or is not a safetensors file") as raised:
            read(saved)
        assert str(saved) in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\n",
        pickle.dumps({"a": 1}),
        b"\0\0\0\x10\0\0\0\0" + b" " * 99,
    ],
    ids=["text", "pickle", "header of 268 MB"],
)
def test_other_content_named_safetensors_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged or is not a safetensors file"):
        load_model(path)


@pytest.mark.parametrize("name", ["model.ckpt", "model.pth"])
def test_an_old_pickle_is_refused_without_being_opened(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    witness = tmp_path / "witness"
    path.write_bytes(pickle.dumps(Touches(witness)))
    with pytest.raises(CheckpointError, match=r"no checkpoint in the format of PyTorch 1\.6"):
        load_model(path)
    assert not witness.exists()
    with pytest.raises(CheckpointError, match=r"does not end in \.safetensors"):
        save_model(path, make_model("adapter"))


class Touches:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        load_model(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("kind", ["full", "adapter", "control", "base"])
def test_kind_and_architecture_of_a_file_without_metadata_are_detected(
    kind: FileKind, tmp_path: Path
) -> None:
    path = tmp_path / "foreign.safetensors"
    save_model(path, make_model(kind))
    rewrite(path, {}, metadata=None)
    loaded = load_model(path)
    assert loaded.kind == kind
    assert loaded.architecture.unet == replace(SMALL.unet, num_heads=8)
    if kind in ("full", "base"):
        assert (loaded.architecture.vae, loaded.architecture.text) == (SMALL.vae, SMALL.text)
    assert (loaded.training, loaded.run_id, loaded.ignored) == ({}, "", ())
    assert load_model(path, num_heads=4).architecture.unet == SMALL.unet


def test_a_controlnet_saved_without_its_prefix_is_read(tmp_path: Path) -> None:
    path = tmp_path / "control.safetensors"
    weights = make_model("control").parts["control"]
    save_file({key: value.clone() for key, value in weights.items()}, path)
    loaded = load_model(path)
    assert loaded.kind == "control"
    assert all(torch.equal(loaded.parts["control"][key], weights[key]) for key in weights)


def test_a_recorded_number_of_heads_is_not_overridden(saved: Path) -> None:
    assert load_model(saved, num_heads=2).architecture == SMALL


def test_buffers_of_a_foreign_file_are_ignored_and_reported(saved: Path) -> None:
    position_ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    buffers = {
        "betas": torch.zeros(1000),
        "model_ema.decay": torch.zeros(()),
        position_ids: torch.arange(8)[None],
    }
    rewrite(saved, buffers, metadata={"format": "pt"})
    loaded = load_model(saved)
    assert set(loaded.ignored) == set(buffers)
    assert loaded.parts["text"].keys() == make_model("base").parts["text"].keys()


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        (
            {"down_blocks.0.resnets.0.conv1.weight": torch.zeros(1)},
            "this is a UNet alone: one part of a model",
        ),
        ({"control_model.input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3)}, "not laid out like"),
        ({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3)}, "not laid out like"),
    ],
    ids=["diffusers", "control alone", "another family"],
)
def test_a_foreign_file_that_is_no_such_model_is_refused(
    tensors: dict[str, Tensor], complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=complaint):
        load_model(path)
