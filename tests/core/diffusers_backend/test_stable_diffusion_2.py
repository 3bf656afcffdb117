"""Stable Diffusion 2.1: OpenCLIP, linear projections, heads by width, and the prediction of v."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from open_clip.transformer import TextTransformer
from safetensors.torch import load_file, save_file
from torch import Tensor

from siamese_core.architecture import SD21, Architecture, TextArchitecture
from siamese_core.diffusers_backend.base_model import (
    build_base,
    build_text_encoder,
    build_unet,
    load_base,
    save_base,
)
from siamese_core.diffusers_backend.networks import DHIControlNet
from siamese_core.diffusers_backend.prompt_encoding import tokenize
from siamese_core.method.ddim import ddim_sample
from siamese_core.method.noise_schedule import (
    add_noise,
    min_snr_weights,
    predicted_noise,
    signal_to_noise,
    training_target,
)
from siamese_core.weights.key_layouts import detect_architecture, merge_parts, shapes_of, to_diffusers
from siamese_core.weights.key_names import Part, entries
from siamese_core.weights.model_file import load_model
from tests.support.small_models import ARCHITECTURE

PARTS: tuple[Part, ...] = ("unet", "control", "vae", "text")
SMALL = replace(
    ARCHITECTURE,
    unet=replace(ARCHITECTURE.unet, num_heads=8, head_channels=32, linear_projection=True),
    text=replace(ARCHITECTURE.text, num_layers=2, family="open_clip"),
    prediction="v_prediction",
)


def test_names_and_shapes_are_those_of_the_training_modules_at_full_size() -> None:
    with torch.device("meta"):
        modules = {
            "unet": build_unet(SD21.unet),
            "control": DHIControlNet.build(SD21),
            "text": build_text_encoder(SD21.text),
        }
    for part, module in modules.items():
        names = {e.diffusers: e.diffusers_shape for e in entries(part, SD21)}  # type: ignore[arg-type]
        assert names == shapes_of(module.state_dict()), part
    assert modules["unet"].config.attention_head_dim == (5, 10, 20, 20)
    assert modules["unet"].down_blocks[0].attentions[0].transformer_blocks[0].attn1.heads == 5


def test_the_names_are_those_of_stable_diffusion_2_files() -> None:
    unet = {entry.ldm: entry.ldm_shape for entry in entries("unet", SD21)}
    assert unet["middle_block.1.proj_in.weight"] == (1280, 1280)
    text = {entry.ldm: entry.ldm_shape for entry in entries("text", SD21)}
    assert text["model.positional_embedding"] == (77, 1024)
    assert text["model.transformer.resblocks.22.attn.in_proj_weight"] == (3072, 1024)
    assert "model.transformer.resblocks.23.ln_1.weight" not in text


def test_a_whole_openclip_is_read_and_its_unused_end_left_out() -> None:
    shapes = merge_parts({p: {e.ldm: e.ldm_shape for e in entries(p, SD21)} for p in PARTS})
    text = "cond_stage_model.model."
    last = {
        key.replace("blocks.22.", "blocks.23."): shape for key, shape in shapes.items() if "blocks.22." in key
    }
    projection = {f"{text}text_projection": (1024, 1024), f"{text}logit_scale": ()}

    found = detect_architecture({**shapes, **last, **projection}, resolution=768)

    assert found == replace(SD21, prediction="epsilon")


def test_the_text_encoder_gives_openclips_penultimate_layer() -> None:
    torch.manual_seed(0)
    tower = TextTransformer(width=64, heads=4, layers=3, output_dim=64, vocab_size=49408).eval()
    architecture = Architecture(text=TextArchitecture(64, 256, num_layers=2, num_heads=4, family="open_clip"))
    stored = {f"model.{key}": value for key, value in tower.state_dict().items()}
    encoder = build_text_encoder(architecture.text).eval()
    encoder.load_state_dict(to_diffusers("text", stored, architecture))
    base = build_base(SMALL)
    ids = tokenize(base.tokenizer, ["a photo of a polyp", ""])
    assert ids[1].tolist() == [49406, 49407, *[0] * 75]

    with torch.no_grad():
        hidden = tower.token_embedding(ids) + tower.positional_embedding
        for block in tower.transformer.resblocks[:-1]:
            hidden = block(hidden, attn_mask=tower.attn_mask)
        expected = tower.ln_final(hidden)
        torch.testing.assert_close(encoder(ids)[0], expected, rtol=1e-4, atol=1e-5)


def test_a_base_survives_the_way_through_a_folder_and_a_file(tmp_path: Path) -> None:
    base = build_base(SMALL, seed=2)
    folder, file = save_base(base, tmp_path, {}, "run")

    for path in (folder, file):
        found = load_base(path)
        assert replace(found.architecture, unet=SMALL.unet) == SMALL
        assert found.architecture.unet.heads == SMALL.unet.heads
        ids = [tokenize(b.tokenizer, ["a polyp"]) for b in (base, found)]
        assert torch.equal(*ids)
    assert torch.equal(load_base(folder).unet.conv_in.weight, base.unet.conv_in.weight)


@pytest.mark.parametrize(("spread", "expected"), [(0.2, "v_prediction"), (0.01, "epsilon")])
def test_what_a_single_file_predicts_is_guessed_as_comfyui_does_and_can_be_given(
    spread: float, expected: str, tmp_path: Path
) -> None:
    _, path = save_base(build_base(SMALL), tmp_path, {}, "")
    tensors = load_file(path)
    key = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    tensors[key] = spread * torch.randn(tensors[key].shape)
    save_file(tensors, tmp_path / "foreign.safetensors")

    assert load_model(tmp_path / "foreign.safetensors").architecture.prediction == expected
    given = load_model(tmp_path / "foreign.safetensors", prediction="epsilon")
    assert given.architecture.prediction == "epsilon"


def test_v_is_that_of_its_definition_and_gives_back_the_noise() -> None:
    latent, noise, timesteps = (
        torch.randn(4, 4, 8, 8),
        torch.randn(4, 4, 8, 8),
        torch.tensor([0, 200, 700, 999]),
    )
    z_t = add_noise(latent, noise, timesteps)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")

    v = training_target(z_t, noise, timesteps, "v_prediction")

    torch.testing.assert_close(v, scheduler.get_velocity(latent, noise, timesteps), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        predicted_noise(v, z_t, timesteps, "v_prediction"), noise, rtol=1e-3, atol=1e-3
    )
    assert training_target(z_t, noise, timesteps, "epsilon") is noise


def test_min_snr_weights_of_v_are_bounded_by_the_images() -> None:
    timesteps = torch.tensor([0, 500, 999])
    snr = signal_to_noise(timesteps)
    torch.testing.assert_close(
        min_snr_weights(timesteps, 5.0, "v_prediction"), snr.clamp(max=5.0) / (snr + 1.0)
    )


def test_sampling_by_v_equals_diffusers() -> None:
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(10)

    def v_of(latent: Tensor, timestep: int) -> Tensor:
        return torch.sin(3 * latent) * 0.5 + timestep / 2000

    def noise(latent: Tensor, timestep: int) -> Tensor:
        return predicted_noise(v_of(latent, timestep), latent, torch.tensor([timestep]), "v_prediction")

    start = torch.randn(2, 4, 8, 8)
    expected = start
    for timestep in scheduler.timesteps:
        expected = scheduler.step(v_of(expected, int(timestep)), timestep, expected).prev_sample

    torch.testing.assert_close(ddim_sample(noise, start, 10), expected, rtol=1e-3, atol=1e-3)
