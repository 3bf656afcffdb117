from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from siamese_core.architecture import SD15, TINY, Architecture, TextArchitecture, UNetArchitecture
from siamese_core.method.dhi import dense_hint_block, sparse_hint_block
from siamese_core.weights.key_layouts import (
    PREFIXES,
    LayoutError,
    check_ldm,
    decoder_keys,
    detect_architecture,
    merge_parts,
    shapes_of,
    split_parts,
    to_diffusers,
    to_ldm,
)
from siamese_core.weights.key_names import Part, entries

MANIFEST = Path(__file__).parents[2] / "data" / "goldens" / "manifest.json"
RECORDING = UNetArchitecture(widths=(32, 64, 128, 128), num_heads=4, context_dim=32)
OTHER = Architecture(
    unet=UNetArchitecture(widths=(32, 64, 128), layers_per_block=1, num_heads=4, context_dim=64),
    vae=replace(TINY.vae, widths=(32, 32, 64, 128), layers_per_block=2),
    text=TextArchitecture(hidden_size=64, intermediate_size=96, num_layers=3, num_heads=1, vocab_size=100),
    hint_block="sparse",
    resolution=128,
)
FILE_PARTS: tuple[Part, ...] = ("unet", "control", "vae", "text")


def build_module(part: Part, architecture: Architecture) -> nn.Module:
    unet, vae, text = architecture.unet, architecture.vae, architecture.text
    unet_config = {
        "block_out_channels": unet.widths,
        "layers_per_block": unet.layers_per_block,
        "cross_attention_dim": unet.context_dim,
        "attention_head_dim": unet.num_heads,
        "norm_num_groups": 32,
        "down_block_types": ("CrossAttnDownBlock2D",) * (len(unet.widths) - 1) + ("DownBlock2D",),
    }
    if part == "unet":
        up_blocks = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (len(unet.widths) - 1)
        return UNet2DConditionModel(**unet_config, up_block_types=up_blocks)
    if part == "control":
        module = ControlNetModel(**unet_config)
        block = dense_hint_block if architecture.hint_block == "dense" else sparse_hint_block
        module.controlnet_cond_embedding = nn.Sequential(*block(unet.widths[0]))
        return module
    if part == "vae":
        return AutoencoderKL(
            block_out_channels=vae.widths,
            down_block_types=("DownEncoderBlock2D",) * len(vae.widths),
            up_block_types=("UpDecoderBlock2D",) * len(vae.widths),
            layers_per_block=vae.layers_per_block,
            latent_channels=vae.latent_channels,
            norm_num_groups=32,
        )
    config = CLIPTextConfig(
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_hidden_layers=text.num_layers,
        num_attention_heads=text.num_heads,
        vocab_size=text.vocab_size,
        max_position_embeddings=text.max_tokens,
    )
    return CLIPTextModel(config)


def ldm_state_dict(part: Part, architecture: Architecture) -> dict[str, Tensor]:
    return {entry.ldm: torch.randn(entry.ldm_shape) for entry in entries(part, architecture)}


def merged_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    return merge_parts(
        {part: {entry.ldm: entry.ldm_shape for entry in entries(part, architecture)} for part in FILE_PARTS}
    )


@pytest.fixture(scope="module")
def tiny_text() -> dict[str, Tensor]:
    return ldm_state_dict("text", TINY)


@pytest.mark.parametrize("part", FILE_PARTS)
@pytest.mark.parametrize("architecture", [TINY, OTHER, SD15], ids=["tiny", "other", "sd15"])
def test_names_and_shapes_are_exactly_those_of_the_training_modules(
    part: Part, architecture: Architecture
) -> None:
    with torch.device("meta"):
        expected = shapes_of(build_module(part, architecture).state_dict())
    names = {entry.diffusers: entry.diffusers_shape for entry in entries(part, architecture)}
    assert names == expected


@pytest.mark.parametrize("part", FILE_PARTS)
@pytest.mark.parametrize("architecture", [TINY, OTHER, SD15], ids=["tiny", "other", "sd15"])
def test_no_two_weights_share_a_name(part: Part, architecture: Architecture) -> None:
    plan = entries(part, architecture)
    assert len({entry.ldm for entry in plan}) == len({entry.diffusers for entry in plan}) == len(plan)


@pytest.mark.parametrize("part", FILE_PARTS)
@pytest.mark.parametrize("architecture", [TINY, OTHER], ids=["tiny", "other"])
def test_a_modules_weights_survive_the_way_to_ldm_and_back_bit_for_bit(
    part: Part, architecture: Architecture
) -> None:
    weights = build_module(part, architecture).state_dict()
    ldm = to_ldm(part, weights, architecture)
    back = to_diffusers(part, ldm, architecture)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)


@pytest.mark.parametrize("part", [*FILE_PARTS, "decoder"])
@pytest.mark.parametrize("architecture", [TINY, OTHER], ids=["tiny", "other"])
def test_a_files_weights_survive_the_way_to_diffusers_and_back_bit_for_bit(
    part: Part, architecture: Architecture
) -> None:
    weights = ldm_state_dict(part, architecture)
    back = to_ldm(part, to_diffusers(part, weights, architecture), architecture)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)


def test_only_the_attention_of_the_vae_changes_shape_and_nothing_is_copied() -> None:
    for part in FILE_PARTS:
        weights = ldm_state_dict(part, TINY)
        renamed = to_diffusers(part, weights, TINY)
        for entry in entries(part, TINY):
            assert renamed[entry.diffusers].data_ptr() == weights[entry.ldm].data_ptr()
            if entry.ldm_shape != entry.diffusers_shape:
                assert re.fullmatch(r"(en|de)coder\.mid\.attn_1\.(q|k|v|proj_out)\.weight", entry.ldm)


def test_the_names_are_those_of_stable_diffusion_files() -> None:
    unet = {entry.ldm: entry.diffusers for entry in entries("unet", SD15)}
    assert unet["input_blocks.3.0.op.weight"] == "down_blocks.0.downsamplers.0.conv.weight"
    assert unet["output_blocks.2.1.conv.weight"] == "up_blocks.0.upsamplers.0.conv.weight"
    assert unet["output_blocks.5.2.conv.weight"] == "up_blocks.1.upsamplers.0.conv.weight"
    assert unet["middle_block.2.in_layers.0.weight"] == "mid_block.resnets.1.norm1.weight"
    vae = {entry.ldm: entry.diffusers for entry in entries("vae", SD15)}
    assert vae["decoder.up.3.upsample.conv.weight"] == "decoder.up_blocks.0.upsamplers.0.conv.weight"
    assert vae["encoder.mid.attn_1.proj_out.bias"] == "encoder.mid_block.attentions.0.to_out.0.bias"
    assert vae["encoder.down.1.block.0.nin_shortcut.weight"].endswith("conv_shortcut.weight")
    text = {entry.ldm for entry in entries("text", SD15)}
    assert "transformer.text_model.encoder.layers.11.self_attn.q_proj.weight" in text


def test_the_trained_parameters_of_the_published_recording_are_those_of_control_and_decoder() -> None:
    recorded = json.loads(MANIFEST.read_text())["grad_param_names"]
    architecture = replace(TINY, unet=RECORDING)
    ours = {PREFIXES["control"] + entry.ldm for entry in entries("control", architecture)}
    ours |= {PREFIXES["unet"] + entry.ldm for entry in entries("decoder", architecture)}
    assert ours == set(recorded)


@pytest.mark.skipif("SIAMESE_GOLDENS" not in os.environ, reason="SIAMESE_GOLDENS names no recording")
def test_names_and_shapes_are_exactly_those_of_the_published_recording() -> None:
    with safe_open(Path(os.environ["SIAMESE_GOLDENS"]) / "weights.safetensors", "pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    parts, others = split_parts(shapes)
    assert others == ()
    assert detect_architecture(shapes, num_heads=4) == replace(SD15, unet=RECORDING)
    for part in ("unet", "control"):
        check_ldm(part, parts[part], replace(SD15, unet=RECORDING))


def test_the_decoder_is_the_output_blocks_and_the_last_layers_of_the_unet() -> None:
    unet_keys = [entry.ldm for entry in entries("unet", TINY)]
    assert decoder_keys(unet_keys) == [entry.ldm for entry in entries("decoder", TINY)]
    assert {key.split(".")[0] for key in decoder_keys(unet_keys)} == {"output_blocks", "out"}


def test_position_ids_of_older_files_are_dropped(tiny_text: dict[str, Tensor]) -> None:
    older = {**tiny_text, "transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}
    assert to_diffusers("text", older, TINY).keys() == to_diffusers("text", tiny_text, TINY).keys()


def test_missing_unexpected_and_misshapen_keys_are_all_named(tiny_text: dict[str, Tensor]) -> None:
    broken = dict(tiny_text)
    del broken["transformer.text_model.final_layer_norm.bias"]
    broken["visual.proj"] = torch.zeros(())
    broken["transformer.text_model.encoder.layers.0.mlp.fc1.bias"] = torch.zeros(7)
    with pytest.raises(LayoutError) as raised:
        to_diffusers("text", broken, TINY)
    message = str(raised.value)
    assert "1 missing (transformer.text_model.final_layer_norm.bias)" in message
    assert "1 unexpected (visual.proj)" in message
    assert "1 misshapen (transformer.text_model.encoder.layers.0.mlp.fc1.bias is (7,) instead" in message
    assert "of (128,))" in message


def test_module_weights_are_checked_on_the_way_to_ldm_too(tiny_text: dict[str, Tensor]) -> None:
    weights = to_diffusers("text", tiny_text, TINY)
    with pytest.raises(LayoutError, match=r"1 unexpected \(visual_projection\.weight\)"):
        to_ldm("text", {**weights, "visual_projection.weight": torch.zeros(1)}, TINY)
    weights["final_layer_norm.weight"] = torch.zeros(33)
    with pytest.raises(LayoutError, match=r"final_layer_norm\.weight is \(33,\) instead of \(32,\)"):
        to_ldm("text", weights, TINY)


def test_of_many_wrong_keys_five_are_named_and_all_are_counted() -> None:
    plan = len(entries("text", TINY))
    with pytest.raises(LayoutError, match=rf"{plan} missing .* and {plan - 5} more\)") as raised:
        to_diffusers("text", {}, TINY)
    assert str(raised.value).count("transformer.text_model") == 5


def test_a_merged_file_splits_into_its_parts_and_the_rest() -> None:
    merged = {"control_model.a": 1, "model.diffusion_model.out.0.b": 2, "model_ema.decay": 3, "betas": 4}
    parts, others = split_parts(merged)
    assert parts == {"control": {"a": 1}, "unet": {"out.0.b": 2}}
    assert others == ("model_ema.decay", "betas")
    assert merge_parts(parts) == {key: value for key, value in merged.items() if key not in others}


@pytest.mark.parametrize("architecture", [TINY, OTHER, SD15], ids=["tiny", "other", "sd15"])
def test_the_architecture_is_read_from_shapes(architecture: Architecture) -> None:
    found = detect_architecture(
        merged_shapes(architecture), num_heads=architecture.unet.num_heads, resolution=architecture.resolution
    )
    assert found == architecture


def test_absent_parts_are_taken_for_stable_diffusion_and_the_unet_is_read_from_its_control_copy() -> None:
    shapes = {key: shape for key, shape in merged_shapes(TINY).items() if key.startswith("control_model.")}
    expected = Architecture(unet=replace(TINY.unet, num_heads=8), hint_block="dense")
    assert detect_architecture(shapes) == expected


@pytest.mark.parametrize(
    "key",
    [
        "model.diffusion_model.input_blocks.0.0.weight",
        "first_stage_model.decoder.conv_in.weight",
        "cond_stage_model.model.ln_final.weight",
    ],
)
def test_a_part_of_another_family_is_refused(key: str) -> None:
    with pytest.raises(LayoutError, match=r"not laid out like Stable Diffusion 1\.x"):
        detect_architecture({key: (320, 4, 3, 3)})
