"""training.convert: every layout into every other without a changed bit, and refusals with a way out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from siamese_core.architecture import (
    SD15,
    SD21,
    Architecture,
    TextArchitecture,
    UNetArchitecture,
    VAEArchitecture,
)
from siamese_core.files import file_digest
from siamese_core.method.noise_schedule import alphas_cumprod
from siamese_core.weights.key_layouts import to_diffusers, to_ldm
from siamese_core.weights.key_names import entries
from siamese_core.weights.model_file import load_model, save_model
from siamese_core.weights.schedule_buffers import schedule_buffers
from siamese_core.weights.tensor_files import read_metadata
from tests.support.commands import Outcome, run_here
from tests.support.folders import read_tree
from tests.support.published import PARTS, published
from training import convert

SD1_SMALL = Architecture(
    unet=UNetArchitecture(widths=(32, 64), num_heads=8, context_dim=32),
    vae=VAEArchitecture(widths=(32, 32, 32, 32), layers_per_block=1),
    text=TextArchitecture(32, 64, num_layers=2, num_heads=4, vocab_size=49408),
)
SD2_SMALL = replace(
    SD1_SMALL,
    unet=UNetArchitecture(widths=(64, 128), context_dim=32, head_channels=64, linear_projection=True),
    text=TextArchitecture(32, 64, num_layers=2, num_heads=4, vocab_size=49408, family="open_clip"),
    prediction="v_prediction",
)
FAMILIES = {"sd1": SD1_SMALL, "sd2": SD2_SMALL}


def run(*flags: object) -> Outcome:
    return run_here(convert.main, *flags)


def converted(source: Path, output: Path, target: str, *flags: object) -> Path:
    outcome = run(source, output, "--to", target, *flags)
    assert outcome.status == 0, outcome.errors
    return output


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    different = [
        key
        for key, value in expected.items()
        if found[key].dtype != value.dtype or not torch.equal(found[key], value)
    ]
    assert not different


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The authors' layout, one of each family, as their programs write it."""
    folder = tmp_path_factory.mktemp("published")
    for family, architecture in FAMILIES.items():
        torch.save({"state_dict": published(architecture), "epoch": 1}, folder / f"{family}.ckpt")
    return {family: folder / f"{family}.ckpt" for family in FAMILIES}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path]) -> Path:
    return converted(checkpoints["sd1"], tmp_path_factory.mktemp("full") / "full.safetensors", "full")


@pytest.mark.parametrize("family", FAMILIES)
def test_cldm_to_diffusers_and_back_changes_no_bit(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    # Random weights do not tell what an SD 2.x model predicts.
    prediction = FAMILIES[family].prediction
    folder = converted(checkpoints[family], tmp_path / "d", "diffusers", "--prediction", prediction)
    back = converted(folder, tmp_path / "back.safetensors", "cldm")

    assert_same(load_file(back), published(FAMILIES[family]))
    assert load_model(back).architecture == FAMILIES[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_full_to_adapter_and_back_onto_the_base_changes_no_bit(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    whole = converted(checkpoints[family], tmp_path / "full.safetensors", "full")
    adapter = converted(whole, tmp_path / "adapter.safetensors", "adapter")

    back = converted(adapter, tmp_path / "back.safetensors", "full", "--base", whole)

    assert back.read_bytes() == whole.read_bytes()
    assert load_model(adapter).kind == "adapter"
    assert adapter.stat().st_size < 0.8 * whole.stat().st_size


@pytest.mark.parametrize("architecture", [SD15, SD21], ids=["SD 1.5", "SD 2.1"])
def test_full_size_weights_change_no_bit_between_the_two_layouts(architecture: Architecture) -> None:
    noise = torch.randint(-30000, 30000, (120_000_000,), dtype=torch.int16).view(torch.float16)
    for number, part in enumerate(PARTS):
        weights: dict[str, Tensor] = {}
        for place, entry in enumerate(entries(part, architecture)):
            count = torch.Size(entry.ldm_shape).numel()
            start = (1_000_003 * (place + 1) + number) % (len(noise) - count)  # views: no memory of their own
            weights[entry.ldm] = noise[start : start + count].view(entry.ldm_shape)

        back = to_ldm(part, to_diffusers(part, weights, architecture), architecture)

        assert back.keys() == weights.keys()
        assert all(torch.equal(back[k].view(torch.int16), weights[k].view(torch.int16)) for k in weights)


def test_what_was_taken_and_what_was_left_out_is_said(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    outcome = run(checkpoints["sd1"], tmp_path / "a.safetensors", "--to", "adapter")

    assert (
        "a full model, an SD 1.x UNet of 32-64 channels and 8 heads that predicts epsilon" in outcome.output
    )
    assert "left out: 13 constants of the noise schedule: computed anew (betas, " in outcome.output
    assert "left out: 1 parts of the text encoder that no prompt goes through (cond_stage" in outcome.output
    assert "left out: 1 state of a training program (epoch)" in outcome.output
    assert "written: " in outcome.output


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_weights_are_cast_on_demand_and_constants_never(
    name: str, dtype: torch.dtype, full: Path, tmp_path: Path
) -> None:
    found = load_file(converted(full, tmp_path / "half.safetensors", "cldm", "--dtype", name))

    for key, value in published(SD1_SMALL).items():
        kept = key in schedule_buffers() or value.dtype == torch.int64
        assert torch.equal(found[key], value if kept else value.to(dtype)), key


def test_values_that_the_number_format_cannot_hold_are_refused(full: Path, tmp_path: Path) -> None:
    tensors = {key: value.clone() for key, value in load_file(full).items()}
    tensors["model.diffusion_model.out.2.bias"][0] = 1e6
    save_file(tensors, tmp_path / "large.safetensors")

    outcome = run(
        tmp_path / "large.safetensors", tmp_path / "out.safetensors", "--to", "full", "--dtype", "fp16"
    )

    assert "'model.diffusion_model.out.2.bias' has values too large for float16" in outcome.refusal
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_that_are_no_floating_point_numbers_are_refused_by_name(
    dtype: torch.dtype, suffix: str, full: Path, tmp_path: Path
) -> None:
    tensors = {**load_file(full), "model.diffusion_model.time_embed.0.SCB": torch.ones(1)}
    tensors["model.diffusion_model.out.2.bias"] = tensors["model.diffusion_model.out.2.bias"].to(dtype)
    source, output = tmp_path / f"quantised.{suffix}", tmp_path / "out.safetensors"
    (save_file if suffix == "safetensors" else torch.save)(tensors, source)  # type: ignore[operator]

    refusal = run(source, output, "--to", "full").refusal

    name = str(dtype).removeprefix("torch.")
    assert f"quantised.{suffix}': 'model.diffusion_model.out.2.bias' is {name}, no floating" in refusal
    assert "fp16 or fp32" in refusal


def test_a_folder_of_quantised_weights_is_refused_by_name(full: Path, tmp_path: Path) -> None:
    folder = converted(full, tmp_path / "folder", "diffusers")
    part = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(part)
    save_file({**tensors, "quant_conv.bias": tensors["quant_conv.bias"].to(torch.int8)}, part)

    refusal = run(folder, tmp_path / "out.safetensors", "--to", "full").refusal

    assert "vae': 'quant_conv.bias' is int8" in refusal


def test_the_record_of_a_training_survives_every_layout(full: Path, tmp_path: Path) -> None:
    record = {**read_metadata(full), "siamese.run_id": "run-9", "siamese.training": '{"prompt": "a polyp"}'}
    architecture = replace(SD1_SMALL, unet=replace(SD1_SMALL.unet, num_heads=4), resolution=128)
    record["siamese.architecture"] = architecture.to_json()
    save_file(load_file(full), tmp_path / "mine.safetensors", record)

    cldm = converted(tmp_path / "mine.safetensors", tmp_path / "cldm.safetensors", "cldm")
    folder = converted(cldm, tmp_path / "folder", "diffusers")
    back = converted(folder, tmp_path / "back.safetensors", "full")

    assert read_metadata(back) == record


def test_a_folder_holds_what_diffusers_asks_for(full: Path, tmp_path: Path) -> None:
    folder = converted(full, tmp_path / "folder", "diffusers")

    assert json.loads((folder / "model_index.json").read_text())["unet"] == [
        "diffusers",
        "UNet2DConditionModel",
    ]
    assert json.loads((folder / "controlnet" / "config.json").read_text())["hint_block"] == "dense"
    assert {path.name for path in folder.iterdir()} == {
        *("controlnet", "model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae")
    }


def test_a_controlnet_alone_goes_into_a_folder_of_its_own_and_onto_a_base(full: Path, tmp_path: Path) -> None:
    control = {
        key.removeprefix("control_model."): value.clone()
        for key, value in load_file(full).items()
        if key.startswith("control_model.")
    }
    save_file(control, tmp_path / "control.safetensors")

    folder = converted(tmp_path / "control.safetensors", tmp_path / "folder", "diffusers")
    back = converted(folder, tmp_path / "full.safetensors", "full", "--base", full)

    assert (folder / "config.json").exists()
    assert_same(load_file(back), load_file(full))


def test_an_adapter_without_its_base_is_refused(full: Path, tmp_path: Path) -> None:
    adapter = converted(full, tmp_path / "adapter.safetensors", "adapter")

    for target, output in (("full", "o.safetensors"), ("cldm", "o.safetensors"), ("diffusers", "o")):
        assert "(--base)" in run(adapter, tmp_path / output, "--to", target).refusal


def test_an_adapter_on_another_base_is_refused(
    full: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    adapter = converted(full, tmp_path / "adapter.safetensors", "adapter")

    outcome = run(adapter, tmp_path / "o.safetensors", "--to", "full", "--base", checkpoints["sd2"])

    assert "--base does not fit: it has an SD 2.x UNet of 64-128 channels" in outcome.refusal


def rewritten(source: Path, output: Path, architecture: Architecture) -> Path:
    """``source`` with another architecture in its record."""
    record = {**read_metadata(source), "siamese.architecture": architecture.to_json()}
    save_file(load_file(source), output, record)
    return output


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (replace(SD1_SMALL, prediction="v_prediction"), "8 heads that predicts v_prediction"),
        (replace(SD1_SMALL, unet=replace(SD1_SMALL.unet, num_heads=4)), "4 heads that predicts epsilon"),
    ],
    ids=["prediction", "heads"],
)
def test_an_adapter_on_a_base_of_another_training_target_or_other_heads_is_refused(
    changed: Architecture, said: str, full: Path, tmp_path: Path
) -> None:
    adapter = converted(full, tmp_path / "adapter.safetensors", "adapter")
    base = rewritten(full, tmp_path / "base.safetensors", changed)

    refusal = run(adapter, tmp_path / "o.safetensors", "--to", "full", "--base", base).refusal

    assert "--base does not fit" in refusal and said in refusal
    assert not (tmp_path / "o.safetensors").exists()


def test_what_a_foreign_base_predicts_can_be_said(full: Path, tmp_path: Path) -> None:
    v_model = rewritten(full, tmp_path / "v.safetensors", replace(SD1_SMALL, prediction="v_prediction"))
    adapter = converted(v_model, tmp_path / "adapter.safetensors", "adapter")
    base, output = tmp_path / "base.safetensors", tmp_path / "o.safetensors"
    save_file(load_file(full), base)

    assert "or --prediction" in run(adapter, output, "--to", "full", "--base", base).refusal
    converted(adapter, output, "full", "--base", base, "--prediction", "v_prediction")

    assert load_model(output).architecture.prediction == "v_prediction"


def test_heads_that_only_one_file_records_are_those_of_both(full: Path, tmp_path: Path) -> None:
    four = replace(SD1_SMALL, unet=replace(SD1_SMALL.unet, num_heads=4))
    recorded = rewritten(full, tmp_path / "recorded.safetensors", four)
    foreign, adapter = tmp_path / "foreign.safetensors", tmp_path / "adapter.safetensors"
    save_file(load_file(full), foreign)
    converted(recorded, adapter, "adapter")
    save_file(load_file(adapter), tmp_path / "foreign-adapter.safetensors")

    for source, base in ((adapter, foreign), (tmp_path / "foreign-adapter.safetensors", recorded)):
        output = converted(source, tmp_path / "o.safetensors", "full", "--base", base, "--overwrite")
        assert load_model(output).architecture == four


def test_nothing_is_overwritten_unless_asked_for(full: Path, tmp_path: Path) -> None:
    taken, other = tmp_path / "taken.safetensors", tmp_path / "folder"
    taken.write_bytes(b"mine")
    other.mkdir()
    (other / "thesis.txt").write_text("mine")

    assert "is there already" in run(full, taken, "--to", "adapter").refusal
    assert "is there already" in run(full, other, "--to", "diffusers").refusal
    assert "no model folder" in run(full, other, "--to", "diffusers", "--overwrite").refusal

    assert taken.read_bytes() == b"mine"
    assert read_tree(other) == {"thesis.txt": b"mine"}
    converted(full, taken, "adapter", "--overwrite")
    assert load_model(taken).kind == "adapter"


def test_a_folder_is_replaced_only_if_nothing_else_is_lost(full: Path, tmp_path: Path) -> None:
    folder = converted(full, tmp_path / "sd", "diffusers")
    converted(full, folder, "diffusers", "--overwrite")
    inside = folder / "model.safetensors"
    inside.write_bytes(full.read_bytes())
    told = [run(source, folder, "--to", "diffusers", "--overwrite").refusal for source in (inside, full)]
    assert "the output would be written there" in told[0]
    assert "holds 'model.safetensors', which --overwrite would remove" in told[1]
    assert inside.read_bytes() == full.read_bytes()


@pytest.mark.parametrize(
    ("own", "command", "init", "told"),
    [(True, "train", {}, 0), (False, "train", {}, 1), (False, "train", {"init": 0}, 0), (False, "x", {}, 0)],
)  # Train Siamese records another digest of its base, and a run with --init that of a model.
def test_another_base_of_the_same_shape_is_told(
    own: bool, command: str, init: dict[str, Any], told: int, full: Path, tmp_path: Path
) -> None:
    training = {"command": command, "base": file_digest(full) if own else "a" * 64, **init}
    save_model(tmp_path / "own.safetensors", replace(load_model(full), training=training))
    adapter = converted(tmp_path / "own.safetensors", tmp_path / "adapter.safetensors", "adapter")
    outcome = run(adapter, tmp_path / "whole.safetensors", "--to", "full", "--base", full)
    assert outcome.output.count("another file than the one that the model was trained on") == told


def test_an_output_that_is_no_safetensors_file_is_refused(full: Path, tmp_path: Path) -> None:
    assert "does not end in .safetensors" in run(full, tmp_path / "out.pth", "--to", "full").refusal


@pytest.mark.parametrize("inner", ["", "global_step100"])
@pytest.mark.parametrize("script", [True, False])
def test_a_deepspeed_folder_is_answered_with_the_command_that_merges_it(
    inner: str, script: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "epoch=9.ckpt"
    (folder / "global_step100").mkdir(parents=True)
    (folder / "global_step100" / "mp_rank_00_model_states.pt").touch()
    (folder / "latest").write_text("global_step100")
    if script:
        (folder / "zero_to_fp32.py").write_text("raise SystemExit('never run')")

    refusal = run(folder / inner, tmp_path / "out.safetensors", "--to", "full").refusal

    own = f"python {folder / 'zero_to_fp32.py'}" if script else "python -m deepspeed.utils.zero_to_fp32"
    assert f"{own} {folder} merged.pth" in refusal


def test_names_that_a_training_program_has_wrapped_are_read(tmp_path: Path) -> None:
    wrapped = {f"_forward_module.{key}": value for key, value in published(SD1_SMALL).items()}
    torch.save(wrapped, tmp_path / "merged.pth")

    back = converted(tmp_path / "merged.pth", tmp_path / "out.safetensors", "cldm")

    assert_same(load_file(back), published(SD1_SMALL))


def test_a_text_encoder_under_its_old_names_is_read(tmp_path: Path) -> None:
    old = {key.replace(".text_model.", "."): value for key, value in published(SD1_SMALL).items()}
    torch.save(old, tmp_path / "old.ckpt")

    back = converted(tmp_path / "old.ckpt", tmp_path / "out.safetensors", "cldm")

    assert_same(load_file(back), published(SD1_SMALL))


def test_an_interrupted_conversion_leaves_nothing(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("siamese_core.files._sync_file", fails)
    for target, output in (("full", tmp_path / "o.safetensors"), ("diffusers", tmp_path / "o")):
        assert "No space left" in run(full, output, "--to", target).refusal
    assert list(tmp_path.iterdir()) == []


def test_the_constants_are_those_of_the_schedule() -> None:
    buffers = schedule_buffers()

    assert torch.equal(buffers["alphas_cumprod"], alphas_cumprod())
    assert all(value.shape == (1000,) and value.dtype == torch.float32 for value in buffers.values())
    assert torch.isfinite(torch.stack([*buffers.values()])).all() and buffers["posterior_variance"][0] == 0
    assert [float(buffers["betas"][end]) for end in (0, -1)] == pytest.approx([0.00085, 0.012])
