"""Sampling into real frames: finding the frames, encoding them, and blending the finished images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...siamese_core import shipped
from ...siamese_core.architecture import LATENT_STRIDE
from ...siamese_core.dataset_generation.background_frames import Frame, FrameFiles, Frames, find_frames
from ...siamese_core.errors import UserError
from ...siamese_core.masks.resizing import ResizeMode, Size, resize_image
from ...siamese_core.method.background_blending import (
    KeptLatents,
    blend_weights,
    generated_latents,
    over_frame,
)
from ..host.folders import input_path, is_nameless
from ..host.mask_tensors import image_arrays

BUNDLED_FRAMES = "(bundled frames)"


class ImageFrames:
    """The frames in an IMAGE (one or a batch), as 8-bit arrays."""

    files: Sequence[Path] = ()
    notes: Sequence[str] = ()

    def __init__(self, image: Tensor) -> None:
        self._pixels = image_arrays(image)
        self._digests = [_digest(pixels) for pixels in self._pixels]

    def __len__(self) -> int:
        return len(self._pixels)

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self._digests).encode()).hexdigest()

    def frame(self, number: int, size: Size, mode: ResizeMode) -> Frame:
        pixels = resize_image(self._pixels[number], size, mode)
        return Frame(f"image {number + 1} of {len(self)}", self._digests[number], pixels)


def chosen_frames(image: Tensor | None, folder: str) -> Frames | None:
    """The frames given to a node, or None.

    Raises UserError when both inputs are used, FrameError and PairError for unusable frames.
    """
    if not folder.strip():
        return None if image is None else ImageFrames(image)
    if image is not None:
        raise UserError("There are frames in 'background' and in 'background_folder'; use one of the two.")
    return FrameFiles(frames_at(folder), _on_frame)


def frames_at(folder: str) -> dict[Path, Path | None]:
    """The frames in the folder named by a widget's text, each with its own mask or None.

    Raises UserError for an empty name or a folder outside the allowed ones, and like :func:`find_frames`.
    """
    if folder.strip() == BUNDLED_FRAMES:
        return find_frames(shipped.FRAMES)
    if is_nameless(folder):
        raise UserError(
            "The folder of frames has no name; give that of a folder in ComfyUI's input folder, or "
            f"'{BUNDLED_FRAMES}'."
        )
    return find_frames(input_path(folder), _may_read)


def _may_read(path: Path) -> bool:
    try:
        input_path(str(path.absolute()))
    except UserError:
        return False
    return True


@dataclass(frozen=True)
class Background:
    """The frames of a batch, (B, H, W, 3) in 0..1, and each pixel's generated share, (B, H, W) in 0..1."""

    frames: Tensor
    weights: Tensor

    @classmethod
    def of(cls, frames: Sequence[Frame], masks: Tensor, blend: int) -> Background:
        """The background for bool ``masks`` (B, H, W), from one frame of the same size per mask."""
        pixels = torch.from_numpy(np.stack([frame.pixels for frame in frames]))
        return cls(pixels.float() / 255, blend_weights(masks, blend))

    def kept_latents(self, vae: Any) -> KeptLatents:
        """The frames' latents (B, 4, h, w), unscaled as in the host's LATENT, each encoded separately."""
        height, width = (side // LATENT_STRIDE for side in self.weights.shape[-2:])
        latents = torch.cat([vae.encode(frame[None]) for frame in self.frames])
        return KeptLatents(latents.cpu().float(), generated_latents(self.weights, (height, width)))

    def around(self, images: Tensor) -> Tensor:
        """Blend ``images`` (B, H, W, 3) in 0..1 over the frames."""
        return over_frame(images, self.frames.to(images), self.weights.to(images))


def without_noise_of_its_own(sampler_name: str) -> str:
    """The sampler to use with kept latents: euler in place of ddim, else ``sampler_name``.

    The host's ddim draws its own noise for such a batch as a whole; euler takes the same steps with the noise
    of each sample.
    """
    return "euler" if sampler_name == "ddim" else sampler_name


def _on_frame(path: Path) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


def _digest(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()
