"""Reading a graph's MODEL, CLIP and VAE as the base of a training run, with patches applied."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import comfy.ldm.models.autoencoder
import comfy.lora
import torch
from torch import Tensor

from ...siamese_core.architecture import Architecture
from ...siamese_core.errors import UserError
from ...siamese_core.method.noise_schedule import alphas_cumprod
from ...siamese_core.weights.key_layouts import (
    PREFIXES,
    check_ldm,
    detect_architecture,
    shapes_of,
    split_parts,
)
from ...siamese_core.weights.key_names import Part, is_decoder_key
from ..host.host_models import HOST_PREFIX, RUN_ID, prediction_of

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


class TrainingBaseError(UserError):
    """A MODEL, CLIP or VAE that training cannot start from; the message says what to connect."""


@dataclass(frozen=True)
class HostBase:
    """The networks that training starts from. ``config`` is the host's configuration of the UNet.

    ``unet``, ``vae``, ``text`` and ``control`` (None for a new ControlNet) map prefix-free ldm names to
    weights; those of the UNet are float32 copies with the MODEL's patches applied. ``digest`` identifies all
    weights. ``parent`` is the run id of the model whose training continues, if any.
    """

    architecture: Architecture
    config: Mapping[str, Any]
    unet: dict[str, Tensor]
    vae: dict[str, Tensor]
    text: dict[str, Tensor]
    control: dict[str, Tensor] | None
    digest: str
    parent: str | None


def read_base(model: Any, clip: Any, vae: Any, control_net: Any = None) -> HostBase:
    """Read the base from a graph's MODEL, CLIP and VAE without changing them.

    With the ``control_net`` of a trained model, training starts from its weights. Raises TrainingBaseError or
    LayoutError when the networks are not Stable Diffusion 1.x or 2.x, do not belong together, or carry
    changes that the trained file could not represent, such as a LoRA on a frozen part.
    """
    _refuse_halves(model, control_net)
    _refuse_changed_clip(clip)
    if not isinstance(vae.first_stage_model, comfy.ldm.models.autoencoder.AutoencoderKL):
        raise TrainingBaseError(
            f"The VAE is of another make ({type(vae.first_stage_model).__name__}), and training needs the "
            "posterior of Stable Diffusion's own; connect the VAE of the checkpoint."
        )
    config = dict(model.model.model_config.unet_config)
    unet = _weights_in_effect(model)
    merged = model.model.state_dict_for_saving(dict(unet), clip.get_sd(), vae.get_sd())
    merged.pop("v_pred", None)  # the host's marker of v-prediction; the architecture records it instead
    if control_net is not None:
        control = control_net.control_model.state_dict()
        merged |= {PREFIXES["control"] + key: value for key, value in control.items()}
    parts, _ = split_parts(merged)
    architecture = _architecture(merged, config, model)
    checked: tuple[Part, ...] = ("unet", "vae", "control")
    for part in checked:
        if part in parts:
            check_ldm(part, shapes_of(parts[part]), architecture)
    _refuse_other_schedule(model)
    _warn_of_patches(model)
    parent = None if control_net is None else getattr(control_net, "run_id", "")
    return HostBase(
        architecture,
        config,
        unet,
        parts["vae"],
        parts.get("text", {}),
        parts.get("control"),
        _digest({**merged, **{PREFIXES["unet"] + key: value for key, value in unet.items()}}),
        parent,
    )


def _refuse_halves(model: Any, control_net: Any) -> None:
    """Refuse a trained decoder without its ControlNet, or with the ControlNet of another run."""
    decoder = model.get_attachment(RUN_ID)
    if control_net is None:
        if decoder is not None:
            raise TrainingBaseError(
                "The model is a trained one, and its ControlNet is not connected: connect it as control_net "
                "to train on from both, or connect a base."
            )
        return
    if not hasattr(control_net, "run_id"):
        raise TrainingBaseError(
            "The ControlNet is none of this pack's; connect that of Load Siamese Checkpoint or Apply Siamese "
            "Adapter."
        )
    if decoder is not None and decoder != control_net.run_id:
        raise TrainingBaseError(
            "The model's decoder and the ControlNet come from different training runs; take both from one "
            "file."
        )


def _architecture(merged: Mapping[str, Tensor], config: Mapping[str, Any], model: Any) -> Architecture:
    found = detect_architecture(shapes_of(merged))
    heads = {"num_heads": config.get("num_heads", -1), "head_channels": config.get("num_head_channels", -1)}
    known = {name: number for name, number in heads.items() if number > 0}
    if "num_heads" in known:
        known["head_channels"] = 0
    return replace(found, unet=replace(found.unet, **known), prediction=prediction_of(model))


def _weights_in_effect(model: Any) -> dict[str, Tensor]:
    """Float32 copies of the UNet's weights by ldm name, with the MODEL's patches applied.

    Raises TrainingBaseError for quantised weights and for patches on the frozen encoder.
    """
    weights: dict[str, Tensor] = {}
    for key, ((weight, convert), *patches) in model.get_key_patches(HOST_PREFIX).items():
        name = key.removeprefix(HOST_PREFIX)
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
