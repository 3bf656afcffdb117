"""The graph's CLIP and VAE in training: encoding the pairs once, and decoding previews."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...siamese_core.architecture import LATENT_SCALE
from ..host.mask_tensors import image_arrays

_PROMPT_TOKENS = 77
_LOG_VARIANCE = (-30.0, 20.0)  # bounds of the posterior's log variance, as in every AutoencoderKL


@dataclass(frozen=True)
class HostEncoder:
    """A ``PairEncoder`` with the graph's CLIP and VAE; ``on_images(count)`` is called after each batch."""

    clip: Any
    vae: Any
    on_images: Callable[[int], None] = lambda count: None

    @torch.inference_mode()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Conditioning ``(B, 77, width)`` float32 on the CPU, with the host's tokenizer and encoder.

        Parentheses are literal characters, not weights, as in headless training. Prompts of more than 77
        tokens are truncated, with a warning in the log.
        """
        rows = []
        for prompt in prompts:
            tokens = self.clip.tokenize(prompt, disable_weights=True)
            if any(len(chunks) > 1 for chunks in tokens.values()):
                logging.warning(
                    "Siamese-Diffusion: the prompt '%s...' is cut to %d tokens.", prompt[:60], _PROMPT_TOKENS
                )
            rows.append(self.clip.encode_from_tokens({name: chunks[:1] for name, chunks in tokens.items()}))
        return torch.cat(rows).float().cpu()

    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> Tensor:
        """uint8 ``(B, 3, H, W)`` -> unscaled posterior mean and deviation ``(B, 2, 4, H/8, W/8)`` on the CPU.

        The host's own ``VAE.encode`` returns the mean only.
        """
        vae = self.vae
        pixels = vae.process_input(images.float() / 255.0)
        memory = vae.memory_used_encode(pixels.shape, vae.vae_dtype)
        comfy.model_management.load_models_gpu([vae.patcher], memory_required=memory)
        stage = vae.first_stage_model
        hidden = stage.quant_conv(stage.encoder(pixels.to(vae.device, vae.vae_dtype))).float()
        mean, log_variance = hidden.chunk(2, dim=1)
        deviation = (0.5 * log_variance.clamp(*_LOG_VARIANCE)).exp()
        self.on_images(len(images))
        return torch.stack([mean, deviation], dim=1).cpu()


@torch.inference_mode()
def decode_latents(vae: Any, latents: Tensor) -> list[NDArray[np.uint8]]:
    """Decode scaled ``latents`` (B, 4, h, w) with the host's VAE to B images (H, W, 3) uint8."""
    return image_arrays(vae.decode(latents.cpu() / LATENT_SCALE))
