"""Building the host's MODEL, CLIP and VAE objects from a model file, for networks of any width."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.sd
import comfy.supported_models
import comfy.text_encoders.sd2_clip
import comfy.utils
from torch import Tensor

from ...siamese_core.architecture import Architecture, Prediction, TextArchitecture, VAEArchitecture
from ...siamese_core.weights.key_layouts import PREFIXES, decoder_keys
from ...siamese_core.weights.model_file import CheckpointError, ModelFile
from .control import head_counts

HOST_PREFIX = "diffusion_model."
"""Prefix of UNet weight names in the host's models."""

RUN_ID = "siamese_run_id"
"""Attachment of a MODEL: the id of the training run that its decoder comes from."""

FILE = "siamese_file"
"""Attachment of a MODEL: the FileState of the file that its decoder comes from."""

OWN_SAMPLING = "siamese_own_sampling"
"""Attachment of a MODEL: the OwnSampling of that file."""


def build_model(model: ModelFile) -> Any:
    """MODEL of a model file of kind ``full`` or ``base``."""
    prefix = PREFIXES["unet"]
    weights = {prefix + key: value for key, value in model.parts["unet"].items()}
    config = unet_config(model.architecture, weights, prefix)
    management = comfy.model_management
    load_device = management.get_torch_device()
    parameters = comfy.utils.calculate_parameters(weights, prefix)
    dtype = management.unet_dtype(
        model_params=parameters,
        supported_dtypes=config.supported_inference_dtypes,
        weight_dtype=comfy.utils.weight_dtype(weights, prefix),
    )
    cast = management.unet_manual_cast(dtype, load_device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, cast)
    network = config.get_model(weights, prefix, device=management.unet_inital_load_device(parameters, dtype))
    patcher = core_model_patcher()(
        network, load_device=load_device, offload_device=management.unet_offload_device()
    )
    _load(network, weights, prefix, patcher)
    if model.kind == "full":
        patcher.set_attachments(RUN_ID, model.run_id)
    return patcher


def apply_decoder(model: Any, file: ModelFile, strength: float) -> Any:
    """A clone of the MODEL with decoder weights (1 - strength) * its own + strength * the file's.

    Raises CheckpointError when the MODEL lacks a weight of the file's decoder.
    """
    decoder = file.parts["unet"]
    patches = {HOST_PREFIX + key: (decoder[key],) for key in decoder_keys(decoder)}
    patched = model.clone()
    taken = patched.add_patches(patches, strength_patch=strength, strength_model=1.0 - strength)
    if missed := sorted(patches.keys() - set(taken)):
        raise CheckpointError(
            f"The model has no '{missed[0]}' ({len(missed)} weights are missing); use the checkpoint that "
            "the adapter was trained on."
        )
    patched.set_attachments(RUN_ID, file.run_id)
    return patched


def prediction_of(model: Any) -> Prediction:
    """What the host takes a MODEL to predict, including a change by the node ModelSamplingDiscrete."""
    sampling = model.get_model_object("model_sampling")
    return "v_prediction" if isinstance(sampling, comfy.model_sampling.V_PREDICTION) else "epsilon"


def build_clip(model: ModelFile, embeddings: list[str] | None) -> Any:
    """CLIP of a ``full`` or ``base`` file; ``embeddings`` are the host's folders of textual inversions."""
    prefix = PREFIXES["text"]
    text = model.architecture.text
    config = comfy.supported_models.SD15 if text.family == "clip" else comfy.supported_models.SD20
    weights = {prefix + key: value for key, value in model.parts["text"].items()}
    weights = config.process_clip_state_dict(config, weights)
    target = config.clip_target(config)
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=embeddings,
        tokenizer_data=weights,
        parameters=comfy.utils.calculate_parameters(weights),
        model_options={
            "clip_l_model_config": _clip_config(text),
            "clip_h_model_config": _clip_config(text),
            # The file ends with the last layer used; by default the host would leave out one more.
            "clip_h_class": partial(comfy.text_encoders.sd2_clip.SD2ClipHModel, layer="last"),
        },
    )
    clip.load_sd(weights, full_model=True)
    return clip


def build_vae(model: ModelFile) -> Any:
    """VAE of a model file of kind ``full`` or ``base``."""
    vae = comfy.sd.VAE(sd=dict(model.parts["vae"]), config={"params": _vae_config(model.architecture.vae)})
    vae.throw_exception_if_invalid()
    return vae


def core_model_patcher() -> Any:
    """The host's preferred patcher class; looked up late because newer hosts rebind the name."""
    return getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)


def unet_config(architecture: Architecture, weights: dict[str, Tensor], prefix: str) -> Any:
    """The host's configuration of a UNet, built directly because its detection expects standard widths."""
    unet = architecture.unet
    family = comfy.supported_models.SD20 if unet.linear_projection else comfy.supported_models.SD15
    config = family(comfy.model_detection.detect_unet_config(weights, prefix))
    # Weights determine neither: the host would assume Stable Diffusion's heads and guess the prediction.
    config.unet_config.update(head_counts(unet))
    kinds = comfy.model_base.ModelType
    kind = kinds.V_PREDICTION if architecture.prediction == "v_prediction" else kinds.EPS
    config.model_type = lambda *_, **__: kind
    return config


def _load(network: Any, weights: dict[str, Tensor], prefix: str, patcher: Any) -> None:
    is_dynamic = getattr(patcher, "is_dynamic", None)
    if is_dynamic is None:
        network.load_model_weights(weights, prefix)
    else:
        network.load_model_weights(weights, prefix, assign=is_dynamic())


def _clip_config(text: TextArchitecture) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_act": "quick_gelu" if text.family == "clip" else "gelu",
        "layer_norm_eps": 1e-5,
        "eos_token_id": 49407,
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "max_position_embeddings": text.max_tokens,
        "num_attention_heads": text.num_heads,
        "num_hidden_layers": text.num_layers,
        "projection_dim": text.hidden_size,
        "vocab_size": text.vocab_size,
    }


def _vae_config(vae: VAEArchitecture) -> dict[str, Any]:
    return {
        "embed_dim": vae.latent_channels,
        "ddconfig": {
            "double_z": True,
            "z_channels": vae.latent_channels,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": vae.widths[0],
            "ch_mult": [width // vae.widths[0] for width in vae.widths],
            "num_res_blocks": vae.layers_per_block,
            "attn_resolutions": [],
            "dropout": 0.0,
        },
    }
