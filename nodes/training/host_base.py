"""MODEL, CLIP and VAE of a graph as the base of a training: what they are, and their weights in effect."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import comfy.ldm.models.autoencoder
import comfy.lora
import comfy.model_management
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...siamese_core.architecture import LATENT_SCALE, Architecture
from ...siamese_core.errors import UserError
from ...siamese_core.method.noise_schedule import alphas_cumprod
from ...siamese_core.weights.key_layouts import (
    PREFIXES,
    check_ldm,
    detect_architecture,
    shapes_of,
    split_parts,
)
from ...siamese_core.weights.key_names import is_decoder_key
from ..host.host_models import prediction_of

_HOST_PREFIX = "diffusion_model."
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_PROMPT_TOKENS = 77
_LOG_VARIANCE = (-30.0, 20.0)  # the posterior's, cut as every AutoencoderKL cuts it


class TrainingBaseError(UserError):
    """A MODEL, CLIP or VAE that cannot be trained on; the message says what to connect."""


@dataclass(frozen=True)
class HostBase:
    """What training starts from. ``config`` is the host's of the UNet.

    ``unet``, ``vae`` and ``text``: weights by prefix-free ldm name, those of the UNet float32 copies with
    the MODEL's patches in effect. ``digest`` names all of them.
    """

    architecture: Architecture
    config: Mapping[str, Any]
    unet: dict[str, Tensor]
    vae: dict[str, Tensor]
    text: dict[str, Tensor]
    digest: str


def read_base(model: Any, clip: Any, vae: Any) -> HostBase:
    """The base of a graph's MODEL, CLIP and VAE, which stay as they are.

    Raises TrainingBaseError or LayoutError when they are no Stable Diffusion 1.x or 2.x, or are changed in a
    way that a trained file could not carry: by a LoRA on what training freezes, for instance.
    """
    _refuse_changed_clip(clip)
    if not isinstance(vae.first_stage_model, comfy.ldm.models.autoencoder.AutoencoderKL):
        raise TrainingBaseError(
            f"The VAE is of another make ({type(vae.first_stage_model).__name__}), and training needs the "
            "posterior of Stable Diffusion's own; connect the VAE of the checkpoint."
        )
    config = dict(model.model.model_config.unet_config)
    unet = _weights_in_effect(model)
    merged = model.model.state_dict_for_saving(dict(unet), clip.get_sd(), vae.get_sd())
    parts, _ = split_parts(merged)
    architecture = _architecture(merged, config, model)
    for part in ("unet", "vae"):
        check_ldm(part, shapes_of(parts[part]), architecture)
    _refuse_other_schedule(model)
    _warn_of_patches(model)
    digest = _digest({**merged, **{PREFIXES["unet"] + key: value for key, value in unet.items()}})
    return HostBase(architecture, config, unet, parts["vae"], parts.get("text", {}), digest)


def _architecture(merged: Mapping[str, Tensor], config: Mapping[str, Any], model: Any) -> Architecture:
    shapes = shapes_of({key: value for key, value in merged.items() if key != "v_pred"})
    found = detect_architecture(shapes)
    heads = {"num_heads": config.get("num_heads", -1), "head_channels": config.get("num_head_channels", -1)}
    known = {name: number for name, number in heads.items() if number > 0}
    if "num_heads" in known:
        known["head_channels"] = 0
    return replace(found, unet=replace(found.unet, **known), prediction=prediction_of(model))


def _weights_in_effect(model: Any) -> dict[str, Tensor]:
    """The UNet's weights by ldm name with the patches that are on the MODEL, as float32 copies."""
    weights: dict[str, Tensor] = {}
    for key, ((weight, convert), *patches) in model.get_key_patches(_HOST_PREFIX).items():
        name = key.removeprefix(_HOST_PREFIX)
        if weight.dtype not in _FLOATS:
            raise TrainingBaseError(
                f"The model's '{name}' is stored as {str(weight.dtype).removeprefix('torch.')}, from which "
                "no exact training can start; load the checkpoint in fp16, bf16 or fp32."
            )
        if patches and not is_decoder_key(name):
            raise TrainingBaseError(
                f"The model carries a LoRA or another patch on its encoder ('{name}'), which training "
                "freezes and its file does not hold; connect the checkpoint without it, and put LoRAs "
                "behind the trained model."
            )
        value = convert(weight.detach().to("cpu", torch.float32, copy=True), inplace=True)
        weights[name] = comfy.lora.calculate_weight(patches, value, key) if patches else value
    return weights


def _refuse_changed_clip(clip: Any) -> None:
    changed = "CLIP Set Last Layer" if clip.layer_idx is not None else ""
    if clip.patcher.patches:
        changed = "a LoRA"
    if changed:
        raise TrainingBaseError(
            f"The CLIP carries {changed}, which the trained file would not tell of; connect the CLIP of the "
            "checkpoint itself."
        )


def _refuse_other_schedule(model: Any) -> None:
    sigmas = model.get_model_object("model_sampling").sigmas.float().cpu()
    abar = alphas_cumprod()
    expected = ((1 - abar) / abar).sqrt()
    if sigmas.shape != expected.shape or not torch.allclose(sigmas, expected, rtol=1e-3):
        raise TrainingBaseError(
            "The model samples on another noise schedule than Stable Diffusion's, on which it would be "
            "trained; connect it without ModelSampling nodes that change the schedule (zero SNR, LCM)."
        )


def _warn_of_patches(model: Any) -> None:
    options = model.model_options.get("transformer_options", {})
    found = sorted(key for key in ("patches", "patches_replace", "wrappers") if options.get(key))
    if found:
        logging.warning(
            "Siamese-Diffusion: the model carries changes to its forward pass (%s), as FreeU and the like "
            "make them; training leaves them out.",
            ", ".join(found),
        )


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        value = tensors[key].detach()
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()


@torch.no_grad()
def encode_prompts(clip: Any, prompts: list[str]) -> Tensor:
    """Conditioning ``(B, 77, width)`` float32 on the CPU, through the host's own tokenizer and encoder.

    Parentheses are letters here, as in the headless training. What goes beyond 77 tokens is cut, and logged.
    """
    rows = []
    for prompt in prompts:
        tokens = clip.tokenize(prompt, disable_weights=True)
        if any(len(chunks) > 1 for chunks in tokens.values()):
            logging.warning(
                "Siamese-Diffusion: the prompt '%s...' is cut to %d tokens.", prompt[:60], _PROMPT_TOKENS
            )
        rows.append(clip.encode_from_tokens({name: chunks[:1] for name, chunks in tokens.items()}))
    return torch.cat(rows).float().cpu()


@torch.no_grad()
def encode_images(vae: Any, images: NDArray[np.uint8]) -> Tensor:
    """Posterior mean and standard deviation ``(B, 2, 4, H/8, W/8)``, unscaled, of images (B, H, W, 3).

    The host's own encode gives the mean alone.
    """
    pixels = vae.process_input(torch.from_numpy(images).movedim(-1, 1).float() / 255.0)
    memory = vae.memory_used_encode(pixels.shape, vae.vae_dtype)
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=memory)
    stage = vae.first_stage_model
    hidden = stage.quant_conv(stage.encoder(pixels.to(vae.device, vae.vae_dtype))).float()
    mean, log_variance = hidden.chunk(2, dim=1)
    deviation = (0.5 * log_variance.clamp(*_LOG_VARIANCE)).exp()
    return torch.stack([mean, deviation], dim=1).cpu()


@torch.no_grad()
def decode_latents(vae: Any, latents: Tensor) -> NDArray[np.uint8]:
    """Images (B, H, W, 3) of scaled latents (B, 4, h, w)."""
    pixels = vae.decode(latents.detach().cpu() / LATENT_SCALE)
    return (pixels[..., :3].float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
