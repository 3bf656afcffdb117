"""The base model: VAE, text encoder and UNet as diffusers objects, read from and written to disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import SafetensorError
from transformers import CLIPTextConfig, CLIPTextModel

from .architecture import LATENT_SCALE, Architecture, TextArchitecture, UNetArchitecture, VAEArchitecture
from .checkpoint import KIND_NAMES, ModelFile, load_model, save_model
from .errors import UserError
from .layouts import LayoutError, to_diffusers, to_ldm
from .schedule import BETA_END, BETA_SCHEDULE, BETA_START, TRAIN_TIMESTEPS
from .text import load_tokenizer


class BaseError(UserError):
    """A base model that cannot be used; the message names the file or folder and the reason."""


@dataclass
class Base:
    """The frozen parts of Siamese-Diffusion and the UNet it starts from, all in float32 on the CPU."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: Any
    architecture: Architecture


def build_unet(arch: UNetArchitecture, sample_size: int = 64) -> UNet2DConditionModel:
    """A UNet of SD 1.x topology with random weights; ``sample_size`` is the latent side it is meant for."""
    deep = len(arch.widths) - 1
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=arch.latent_channels,
        out_channels=arch.latent_channels,
        block_out_channels=arch.widths,
        down_block_types=("CrossAttnDownBlock2D",) * deep + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * deep,
        layers_per_block=arch.layers_per_block,
        cross_attention_dim=arch.context_dim,
        # diffusers reads "attention_head_dim" as the number of heads for this model family.
        attention_head_dim=arch.num_heads,
    )


def build_vae(arch: VAEArchitecture, resolution: int) -> AutoencoderKL:
    """An AutoencoderKL with random weights; ``resolution`` is the image side in pixels."""
    levels = len(arch.widths)
    return AutoencoderKL(
        block_out_channels=arch.widths,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=arch.layers_per_block,
        latent_channels=arch.latent_channels,
        sample_size=resolution,
        scaling_factor=LATENT_SCALE,
    )


def build_text_encoder(arch: TextArchitecture) -> CLIPTextModel:
    """A CLIP text transformer with random weights."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=arch.vocab_size,
            hidden_size=arch.hidden_size,
            intermediate_size=arch.intermediate_size,
            num_hidden_layers=arch.num_layers,
            num_attention_heads=arch.num_heads,
            max_position_embeddings=arch.max_tokens,
            projection_dim=arch.hidden_size,
            hidden_act="quick_gelu",
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=49407,
        )
    )


def build_base(architecture: Architecture, seed: int = 0) -> Base:
    """A base with random weights, a pure function of ``architecture`` and ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Base(
            unet=build_unet(architecture.unet, architecture.resolution // 8),
            vae=build_vae(architecture.vae, architecture.resolution),
            text_encoder=build_text_encoder(architecture.text),
            tokenizer=load_tokenizer(),
            architecture=architecture,
        )


def load_base(path: Path) -> Base:
    """Read a diffusers folder or a single ``.safetensors`` file (SD 1.5 layout). Never asks a hub.

    Raises BaseError or CheckpointError with the reason when ``path`` is neither, or is a model that
    Siamese-Diffusion cannot start from (v-prediction, another number of channels).
    """
    if path.is_dir():
        return _load_folder(path)
    if not path.exists():
        raise BaseError(f"{path}: no such base; give a diffusers folder or a .safetensors file")
    try:
        return base_from_file(load_model(path))
    except BaseError as error:
        raise BaseError(f"{path}: {error}") from error


def base_from_file(model: ModelFile) -> Base:
    """The base inside a ``base`` or ``full`` model file."""
    arch = model.architecture
    if model.kind not in ("base", "full"):
        raise BaseError(
            f"this is {KIND_NAMES[model.kind]}, which holds no VAE and no text encoder; give a base or a "
            "full model"
        )
    with torch.device("meta"):
        unet, vae = build_unet(arch.unet, arch.resolution // 8), build_vae(arch.vae, arch.resolution)
    text_encoder = build_text_encoder(arch.text)
    modules: dict[Any, torch.nn.Module] = {"unet": unet, "vae": vae, "text": text_encoder}
    for part, module in modules.items():
        weights = to_diffusers(part, model.parts[part], arch)
        weights = {key: value.float() for key, value in weights.items()}
        # The text encoder was built for real: it has buffers that no file stores.
        module.load_state_dict(weights, assign=part != "text", strict=True)
    return Base(unet.eval(), vae.eval(), text_encoder.eval(), load_tokenizer(), arch)


def base_file(base: Base, training: dict[str, Any], run_id: str) -> ModelFile:
    """``base`` as a model file of kind ``base``; ``training`` and ``run_id`` go into its metadata."""
    arch = base.architecture
    parts = {
        "unet": to_ldm("unet", base.unet.state_dict(), arch),
        "vae": to_ldm("vae", base.vae.state_dict(), arch),
        "text": to_ldm("text", base.text_encoder.state_dict(), arch),
    }
    return ModelFile(kind="base", architecture=arch, training=training, run_id=run_id, parts=parts)


def save_base(base: Base, output: Path, training: dict[str, Any], run_id: str) -> tuple[Path, Path]:
    """Write ``output/diffusers/`` and the single file ``output/base.safetensors``; return both paths."""
    folder, file = output / "diffusers", output / "base.safetensors"
    scheduler = DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule=BETA_SCHEDULE,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )
    pipeline = StableDiffusionPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=base.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(str(folder))
    save_model(file, base_file(base, training, run_id))
    return folder, file


def _load_folder(path: Path) -> Base:
    missing = [name for name in ("unet", "vae", "text_encoder") if not (path / name / "config.json").exists()]
    if missing:
        raise BaseError(f"{path}: not a diffusers model folder, {missing[0]}/config.json is missing")
    _refuse_other_predictions(path)
    _refuse_other_channels(path)
    unet = _read_complete(UNet2DConditionModel, path / "unet")
    vae = _read_complete(AutoencoderKL, path / "vae")
    text_encoder = _read_complete(CLIPTextModel, path / "text_encoder")
    architecture = _folder_architecture(path, unet.config, vae.config, text_encoder.config)
    try:  # what cannot be exported after the training is refused before it
        to_ldm("unet", unet.state_dict(), architecture)
        to_ldm("vae", vae.state_dict(), architecture)
        to_ldm("text", text_encoder.state_dict(), architecture)
    except LayoutError as error:
        raise BaseError(f"{path}: not laid out like Stable Diffusion 1.x ({error})") from error
    return Base(
        unet.eval(), vae.eval(), text_encoder.eval(), load_tokenizer(path / "tokenizer"), architecture
    )


def _read_complete(kind: Any, folder: Path) -> Any:
    """The float32 model in ``folder``; the libraries would fill missing weights with random ones."""
    try:
        # safetensors only: the older .bin files are pickled and can run code
        model, report = kind.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise BaseError(f"{folder}: no readable .safetensors weights there ({error})") from error
    if missing := sorted(report["missing_keys"]):
        raise BaseError(
            f"{folder}: {len(missing)} weights are missing in its files (the first is {missing[0]}); "
            "download or save the folder again"
        )
    return model.float()


def _refuse_other_predictions(path: Path) -> None:
    scheduler = path / "scheduler" / "scheduler_config.json"
    if scheduler.exists():
        prediction = _read_config(scheduler).get("prediction_type", "epsilon")
        if prediction != "epsilon":
            raise BaseError(
                f"{path}: the base predicts {prediction!r}; Siamese-Diffusion trains on noise prediction "
                "('epsilon'), as Stable Diffusion 1.5 does"
            )


def _refuse_other_channels(path: Path) -> None:
    config = _read_config(path / "unet" / "config.json")
    taken, given = config.get("in_channels", 4), config.get("out_channels", 4)
    if (taken, given) != (4, 4):
        raise BaseError(
            f"{path}: the UNet takes {taken} channels and gives {given}; 4 and 4 are needed (an inpainting "
            "model cannot be the base)"
        )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise BaseError(f"{path}: not a JSON object ({error}); download or save the folder again") from error


def _folder_architecture(path: Path, unet: Any, vae: Any, text: Any) -> Architecture:
    if abs(vae.scaling_factor - LATENT_SCALE) > 1e-6:
        raise BaseError(f"{path}: the VAE's scaling factor is {vae.scaling_factor}, not {LATENT_SCALE}")
    if not isinstance(unet.attention_head_dim, int):
        raise BaseError(f"{path}: heads differ between levels (SD 2.x or SDXL); SD 1.x is needed")
    return replace(
        Architecture(),
        unet=UNetArchitecture(
            widths=tuple(unet.block_out_channels),
            layers_per_block=unet.layers_per_block,
            num_heads=unet.attention_head_dim,
            context_dim=unet.cross_attention_dim,
        ),
        vae=VAEArchitecture(widths=tuple(vae.block_out_channels), layers_per_block=vae.layers_per_block),
        text=TextArchitecture(
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            num_layers=text.num_hidden_layers,
            num_heads=text.num_attention_heads,
            vocab_size=text.vocab_size,
            max_tokens=text.max_position_embeddings,
        ),
        resolution=unet.sample_size * 8,
    )
