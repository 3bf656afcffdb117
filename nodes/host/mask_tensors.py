"""Conversions between the host's tensors (MASK [B, H, W], IMAGE [B, H, W, C], in 0..1) and NumPy arrays."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...siamese_core.errors import UserError

NOT_FINITE = (
    "An image holds values that are not finite numbers, as when half precision overflows; start ComfyUI with "
    "--fp32-vae, or with --force-fp32 if that is not enough."
)


def binary_masks(mask: Tensor) -> Tensor:
    """A MASK, ``[B, H, W]`` or ``[H, W]``, as bool ``[B, H, W]`` on the CPU: True above 0.5.

    Raises UserError for any other shape and for an empty tensor.
    """
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or 0 in mask.shape:
        raise UserError(
            f"A mask of shape {tuple(mask.shape)} cannot be used; connect a MASK of shape [B, H, W]."
        )
    return mask.cpu() > 0.5


def mask_arrays(mask: Tensor) -> list[NDArray[np.bool_]]:
    """A MASK as a list of (H, W) bool arrays, True above 0.5."""
    return list(binary_masks(mask).numpy())


def mask_batch(masks: list[NDArray[np.bool_]]) -> Tensor:
    """Bool arrays (H, W) of equal size as a MASK: float32 of 0 and 1."""
    return torch.from_numpy(np.stack(masks)).float()


def image_arrays(image: Tensor) -> list[NDArray[np.uint8]]:
    """An IMAGE (B, H, W, C) as a list of (H, W, 3) uint8 arrays, clamped and rounded.

    C is 3, 4 (the alpha channel is dropped) or 1 (grey). Raises UserError for others, and for values that are
    not finite.
    """
    if image.shape[-1] not in (1, 3, 4):
        raise UserError(f"An image of {image.shape[-1]} channels cannot be used; 1, 3 or 4 are possible.")
    if not image.isfinite().all():
        raise UserError(NOT_FINITE)
    colours = image.expand(-1, -1, -1, 3) if image.shape[-1] == 1 else image[..., :3]
    pixels = (colours.float().clamp(0, 1) * 255).round()
    return list(pixels.to(torch.uint8).cpu().numpy())


def require_pairs(images: list[NDArray[np.uint8]], masks: list[NDArray[np.bool_]]) -> None:
    """Raise UserError unless there is one mask of the same size for every image."""
    if len(images) != len(masks):
        raise UserError(
            f"There are {len(images)} images and {len(masks)} masks; connect the IMAGE and the MASK of one "
            "Mask-Diffusion Sampler, so that every image has its mask."
        )
    for number, (image, mask) in enumerate(zip(images, masks, strict=True), start=1):
        if image.shape[:2] != mask.shape:
            raise UserError(
                f"Image {number} of {len(images)} is {image.shape[1]} x {image.shape[0]} pixels and its mask "
                f"{mask.shape[1]} x {mask.shape[0]}; resize one of them (a pair has one size)."
            )


def names_of(text: str | None, count: int, fallback: str) -> list[str]:
    """``count`` names from the lines of ``text``, or ``fallback_00000``, ... when it has none.

    Raises UserError when ``text`` has another number of names.
    """
    names = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if names and len(names) != count:
        raise UserError(
            f"There are {len(names)} names for {count} {fallback}s; connect the names of the node that the "
            "masks come from, one line each."
        )
    return names or [f"{fallback}_{number:05d}" for number in range(count)]
