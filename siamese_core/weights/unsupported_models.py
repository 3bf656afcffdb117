"""Detecting files that are not usable Stable Diffusion 1.x or 2.x models, with an explanation for each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from .. import advice
from ..errors import UserError

_UNET = "model.diffusion_model."
_LATENT_CHANNELS = 4


class LayoutError(UserError):
    """Weights do not fit the architecture: keys are missing, unexpected or of another shape."""


SDXL = (
    "this is Stable Diffusion XL. It would need a ControlNet of its own UNet (three levels, up to ten "
    "transformer layers in each), the pooled text of its second encoder and its size conditioning in every "
    "training step, and its own latent scale (0.13025); none of that is built. Use Stable Diffusion 1.5 "
    "or 2.1"
)
_UNCLIP = "this is an unCLIP model, which generates from the embedding of an image; use Stable Diffusion 2.1"
LATENT_CONSISTENCY = (
    "this is a latent consistency model: it takes the guidance scale as an input and is made for a few "
    "steps, while Siamese training needs a model that predicts at every noise level. Train on the "
    "Stable Diffusion model that it was distilled from"
)


_OTHER_FILES: Mapping[str, tuple[tuple[str, ...], str]] = {
    # Kind of file: (substrings of key names that identify it, explanation and remedy).
    "a LoRA": (
        ("lora_up.", "lora_down.", "lora_A.", "lora_B.", "lora.up.", "lora.down.", "hada_w1", "lokr_w"),
        "a small change to a model; merge it into its model with the program it is for, and give that file",
    ),
    "a textual inversion": (
        ("emb_params", "string_to_param", "text_model.embeddings.token_embedding.trainable"),
        "a word's embedding; give a whole model",
    ),
    "an IP-Adapter": (("ip_adapter.", "image_proj."), "an addition to a model; give a whole model"),
    "a T2I-Adapter": (("adapter.body.", "body.0.resnets."), "an addition to a model; give a whole model"),
    "an upscaler": (("rdb1.conv1", "RDB1.conv1", "upsampler."), "it enlarges images; give a whole model"),
    "a piece of a training checkpoint": (
        ("controlnet_cond_embedding.", "controlnet_down_blocks."),
        advice.UNFINISHED_RUN,
    ),
    "a VAE alone": (
        ("decoder.up.", "decoder.up_blocks.", "decoder.conv_in."),
        "one part of a model; give the whole of it",
    ),
    "a text encoder alone": (("text_model.encoder.", "transformer.resblocks."), "give the whole model"),
    "a UNet alone": (
        ("up_blocks.", "output_blocks.", "down_blocks."),
        "one part of a model; give the whole of it",
    ),
}


def refuse_other_files(names: Iterable[str], parts: Collection[str]) -> None:
    """Raise LayoutError when a file with key ``names`` holds no model, or only one of its ``parts``."""
    if parts and not {"vae"} >= {*parts} and not {"text"} >= {*parts}:
        return
    names = list(names)
    for what, (signs, remedy) in _OTHER_FILES.items():
        if any(sign in name for name in names for sign in signs):
            raise LayoutError(f"this is {what}: {remedy}")


def refuse_other_families(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise LayoutError when ``shapes`` of a merged file, by full ldm key, are those of another family."""
    if any(key.startswith("conditioner.embedders.1.") for key in shapes):
        raise LayoutError(SDXL)
    for root in (_UNET, "control_model."):
        if f"{root}label_emb.0.0.weight" in shapes:
            # Both SDXL's UNet and SD 2.1 unCLIP add a vector to the time embedding.
            deep = f"{root}input_blocks.4.1.transformer_blocks.1.norm1.weight" in shapes
            raise LayoutError(SDXL if deep else _UNCLIP)
        if f"{root}time_embed.cond_proj.weight" in shapes:
            raise LayoutError(LATENT_CONSISTENCY)
    if any(key.startswith((f"{_UNET}joint_blocks.", f"{_UNET}double_blocks.")) for key in shapes):
        raise LayoutError("this is a diffusion transformer (SD 3, Flux); use Stable Diffusion 1.5 or 2.1")
    first = shapes.get(f"{_UNET}input_blocks.0.0.weight", ())
    if len(first) > 1:  # a missing or misshapen weight is reported by check_ldm
        refuse_other_channels(first[1])
    whole = any(key.startswith(f"{_UNET}middle_block.") for key in shapes)
    if f"{_UNET}input_blocks.1.1.proj_in.weight" in shapes and not whole:
        raise LayoutError(
            "its UNet has no middle block: a distilled, smaller Stable Diffusion (such as "
            "small-sd or BK-SDM), of which the ControlNet would be another one; use a whole model"
        )


def refuse_other_channels(taken: int, given: int = _LATENT_CHANNELS) -> None:
    """Raise LayoutError unless a UNet has the four input and output channels of a latent."""
    if (taken, given) == (_LATENT_CHANNELS, _LATENT_CHANNELS):
        return
    kinds = {
        9: "this is an inpainting model: its UNet also takes a mask and the image under it",
        8: "this is a model that edits images (InstructPix2Pix): its UNet also takes an image",
        5: "this is a model that also takes a depth map",
        7: "this is an upscaling model: its UNet also takes a small image",
    }
    what = kinds.get(taken, "this UNet is not one of latents alone")
    raise LayoutError(
        f"{what} ({taken} channels in, {given} out; {_LATENT_CHANNELS} and {_LATENT_CHANNELS} are needed). "
        "Use the ordinary model of its family"
    )
