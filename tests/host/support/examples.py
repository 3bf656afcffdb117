"""Bundled masks and model, and what training.generate makes of them, for tests to compare with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from siamese_core import shipped
from siamese_core.diffusers_backend.mask_sampling import controlled_noise_predictor, sample_latents
from siamese_core.diffusers_backend.prompt_encoding import encode_prompts
from siamese_core.diffusers_backend.siamese_model import model_from_file
from siamese_core.learning.training_set import mask_hint
from siamese_core.masks.mask_files import read_mask
from siamese_core.masks.resizing import resize_mask
from siamese_core.method.ddim import NoisePredictor, ddim_sample
from siamese_core.method.noise_schedule import alphas_cumprod, ddim_timesteps
from siamese_core.seeds import starting_noise
from siamese_core.weights.key_layouts import decoder_keys
from siamese_core.weights.model_file import load_model, save_model

from .server import Host


def write_adapter(path: Path) -> Path:
    full = load_model(shipped.MODEL)
    unet = full.parts["unet"]
    decoder = {key: unet[key] * 0.9 for key in decoder_keys(unet)}
    parts = {"unet": decoder, "control": full.parts["control"]}
    save_model(path, replace(full, kind="adapter", parts=parts, run_id="another-run"))
    return path


def latent(host: Host, name: str) -> torch.Tensor:
    (path,) = host.output_dir.glob(f"{name}*.latent")
    return load_file(path)["latent_tensor"]


def headless_stochastic_latent(mask: np.ndarray, prompt: str, seed: int) -> torch.Tensor:
    """The latent (1, 4, h, w), scaled, of ``generate --sampler dpmpp-2m-sde`` at guidance 3."""
    predict = _predictor(shipped.MODEL, prompt, mask)
    return sample_latents(predict, [seed], *mask.shape, steps=25, device="cpu", sampler="dpmpp-2m-sde")


def headless_latent(checkpoint: Path, prompt: str, mask: np.ndarray, seed: int, steps: int) -> torch.Tensor:
    """The latent (1, 4, h, w), scaled, of training.generate at guidance 3, with the host's ends of DDIM."""
    predict = _predictor(checkpoint, prompt, mask)
    last: dict[str, torch.Tensor] = {}
    height, width = (side // 8 for side in mask.shape)
    with torch.no_grad():

        def recorded(latent: torch.Tensor, timestep: int) -> torch.Tensor:
            last.update(latent=latent, noise=predict(latent, timestep), alpha=alphas_cumprod()[timestep])
            return last["noise"]

        # The host starts from noise of the first timestep's own deviation, 0.3 % below 1 ...
        first = ddim_timesteps(steps)[0]
        start = starting_noise(seed, height, width) * (1 - alphas_cumprod()[first]).sqrt()
        ddim_sample(recorded, start, steps=steps)
    # ... and ends at the clean prediction, where the published sampler ends at timestep 0's noise level.
    return (last["latent"] - (1 - last["alpha"]).sqrt() * last["noise"]) / last["alpha"].sqrt()


@torch.no_grad()
def _predictor(checkpoint: Path, prompt: str, mask: np.ndarray) -> NoisePredictor:
    """Noise prediction under the control of ``mask`` (H, W), at guidance 3."""
    model = model_from_file(load_model(checkpoint))
    context = encode_prompts(model.base.text_encoder, model.base.tokenizer, [prompt, ""])
    hint = mask_hint(torch.from_numpy(mask[None]))
    return controlled_noise_predictor(model.networks, [(hint, 1.0)], context[:1], context[1:], 3.0)


def example(number: int, side: int = 128) -> np.ndarray:
    return resize_mask(read_mask(shipped.EXAMPLE_MASKS / f"example_{number}.png").mask, (side, side))
