"""The base model (VAE, text encoder, UNet) as diffusers objects, read from and written to disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from ..architecture import (
    LATENT_SCALE,
    Architecture,
    Prediction,
    TextArchitecture,
    UNetArchitecture,
    VAEArchitecture,
)
from ..errors import UserError
from ..method.noise_schedule import BETA_END, BETA_SCHEDULE, BETA_START, TRAIN_TIMESTEPS
from ..weights.diffusers_folder import read_model
from ..weights.key_layouts import to_diffusers, to_ldm
from ..weights.model_file import KIND_NAMES, ModelFile, save_model
from ..weights.pickled_files import SUFFIXES as PICKLED
from ..weights.tensor_files import SAFETENSORS
from .prompt_encoding import load_tokenizer, pad_token

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# One format of each weight file, and no code.
_HUB_FILES = [
    "*.json",
    "*.txt",
    "*/config.json",
    "*/*.txt",
    "*/*.json",
    "*/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
]


class BaseError(UserError):
    """A base model cannot be used; the message names the file or folder and the reason."""


class TrainedModelError(BaseError):
    """A finished Siamese model was given as the base."""


@dataclass
class Base:
    """The frozen networks of Siamese-Diffusion and the UNet that training starts from; float32 on the CPU."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: Any
    architecture: Architecture


def build_unet(arch: UNetArchitecture, sample_size: int = 64) -> UNet2DConditionModel:
    """A UNet of SD 1.x or 2.x topology with random weights; ``sample_size`` is the latent side."""
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
        attention_head_dim=arch.heads,
        use_linear_projection=arch.linear_projection,
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
            hidden_act="quick_gelu" if arch.family == "clip" else "gelu",
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=pad_token(arch),
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
            tokenizer=load_tokenizer(pad=pad_token(architecture.text)),
            architecture=architecture,
        )


def load_base(source: Path, prediction: Prediction | None = None) -> Base:
    """Read Stable Diffusion 1.x or 2.x from a diffusers folder or a single file in the ldm layout.

    A ``source`` that does not exist and looks like ``owner/name`` is fetched from the Hugging Face hub or its
    cache; the network is used for nothing else. ``prediction`` is passed to :func:`load_model`. Raises
    BaseError or CheckpointError when the model cannot be read or cannot be a base (inpainting, distilled,
    SDXL), and TrainedModelError for a finished Siamese model.
    """
    path = local_base(source)
    model = read_model(path, prediction=prediction)
    if model.kind == "full":
        raise TrainedModelError(
            f"{path}: a finished Siamese model, whose trained ControlNet would be thrown away; give the base "
            "that it was trained on. To train the same run further, resume it with more steps (--resume "
            "--change-steps)"
        )
    try:
        return base_from_file(model, path / "tokenizer" if path.is_dir() else None)
    except BaseError as error:
        raise BaseError(f"{path}: {error}") from error


def local_base(source: Path) -> Path:
    """``source`` if it exists, else the local copy of the Hugging Face model of that name.

    Downloads the model if needed. Raises BaseError when there is no such model.
    """
    name = source.as_posix()
    if source.exists():
        return source
    if not _HUB_NAME.fullmatch(name) or source.suffix in (SAFETENSORS, *PICKLED):
        raise BaseError(
            f"{source}: no such base; give a diffusers folder, a .safetensors file or the name of a model on "
            "the Hugging Face hub"
        )
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise BaseError(
            f"{name}: no file or folder of that name here, and the Hugging Face hub did not give it "
            f"({reason}); download the model and give its path"
        ) from error


def base_from_file(model: ModelFile, tokenizer: Path | None = None) -> Base:
    """Build the base in a ``base`` or ``full`` model file, with the ``tokenizer`` folder's tokenizer if any.

    Raises BaseError for other kinds of files and for weights that are not finite.
    """
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
        weights = finite(weights)
        # The text encoder is not on the meta device: it has buffers that no file stores.
        module.load_state_dict(weights, assign=part != "text", strict=True)
    words = load_tokenizer(tokenizer, pad=pad_token(arch.text))
    return Base(unet.eval(), vae.eval(), text_encoder.eval(), words, arch)


def finite(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` cast to float32. Raises BaseError, naming the weight, for values that are not finite."""
    cast = {key: value.float() for key, value in weights.items()}
    for key, value in cast.items():
        if not torch.isfinite(value).all():
            raise BaseError(
                f"its weight '{key}' has values that are not finite (nan or infinite): the file is damaged, "
                "or its training has diverged; download it again, or give an earlier one"
            )
    return cast


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
    pipeline(base).save_pretrained(str(folder))
    save_model(file, base_file(base, training, run_id))
    return folder, file


def pipeline(base: Base) -> StableDiffusionPipeline:
    """``base`` as a diffusers pipeline with a DDIM scheduler that matches :func:`method.ddim.ddim_sample`."""
    scheduler = DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule=BETA_SCHEDULE,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type=base.architecture.prediction,
    )
    return StableDiffusionPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=base.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
