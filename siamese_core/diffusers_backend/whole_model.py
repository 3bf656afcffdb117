"""Combining an adapter or a ControlNet with the base it was trained on."""

from __future__ import annotations

from dataclasses import replace

from ..architecture import Architecture
from ..errors import CheckpointError
from ..weights.model_file import ModelFile, infer_kind


def on_base(model: ModelFile, base: ModelFile) -> ModelFile:
    """Complete ``model``, an adapter or a ControlNet, with the other networks of ``base``.

    Raises CheckpointError when their UNets or, for an adapter, their predictions differ.
    """
    own, other = model.architecture.unet, base.architecture.unet
    misfit = (
        f"--base does not fit: it has {unet_described(base.architecture)}, and the file was trained on "
        f"{unet_described(model.architecture)}; give the base it was trained on"
    )
    other_heads = model.heads_recorded and base.heads_recorded and own.heads != other.heads
    if other_heads or replace(other, num_heads=own.num_heads) != own or "unet" not in base.parts:
        raise CheckpointError(misfit)
    # The shapes would fit, but the result would generate noise. A ControlNet alone implies no prediction.
    if model.kind == "adapter" and base.architecture.prediction != model.architecture.prediction:
        raise CheckpointError(f"{misfit}, or --prediction where a file records none and the guess is wrong")
    parts = {**base.parts, **model.parts, "unet": {**base.parts["unet"], **model.parts.get("unet", {})}}
    told = base if model.kind == "control" else model
    # If only the base records its number of heads, the file's is a guess.
    guessed = base.heads_recorded and not model.heads_recorded
    architecture = replace(
        base.architecture,
        unet=other if guessed else own,
        hint_block=model.architecture.hint_block,
        resolution=model.architecture.resolution,
        prediction=told.architecture.prediction,
    )
    return ModelFile(infer_kind(parts), architecture, model.training, model.run_id, parts)


def unet_described(architecture: Architecture) -> str:
    """The UNet's family, widths, heads and prediction, as a phrase for messages."""
    unet = architecture.unet
    family = "SD 2.x" if unet.linear_projection else "SD 1.x"
    heads = f"heads of {unet.head_channels} channels" if unet.head_channels else f"{unet.num_heads} heads"
    widths = "-".join(map(str, unet.widths))
    return f"an {family} UNet of {widths} channels and {heads} that predicts {architecture.prediction}"
