"""Sample images for masks with the diffusers-backed networks: hint, control, decoder, guidance, VAE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from ..architecture import Prediction
from ..method.ddim import NoisePredictor, ddim_sample, guided
from ..method.noise_schedule import predicted_noise
from ..seeds import starting_noise
from .dpm_solver import dpm_solver_sample
from .networks import SiameseNetworks, UNetDecoder, UNetEncoder

Sampler = Literal["ddim", "dpmpp-2m"]
"""The paper's, and DPM-Solver++(2M), of which fifteen steps do for fifty of the former."""

DEFAULT_STEPS: dict[Sampler, int] = {"ddim": 50, "dpmpp-2m": 15}


def controlled_noise_predictor(
    networks: SiameseNetworks,
    hints: Sequence[tuple[Tensor, float]],
    context: Tensor,
    unconditional: Tensor,
    guidance_scale: float,
    shares_text: bool | None = None,
) -> NoisePredictor:
    """Noise prediction under the sum of controls ``weight * ControlNet(hint)``.

    ``hints``: pairs of hint (B, 3, H, W) in [0, 1] and weight; one pair (mask, 1.0) is Mask-Diffusion, a
    second one (image, w_i) adds the image prior. ``context`` and ``unconditional`` (B, tokens, width). The
    hint blocks run once, here; both passes run as one batch and share what does not depend on the text.
    Rows of one text share its keys and values too: ``shares_text`` says whether all do, for whom it must not
    depend on the rows that happen to meet, since it moves the last bits; None looks. Guidance and all that
    follows keep the latents' number format, whatever the networks' is.
    """
    dtype = networks.control.dtype
    features = [(networks.control.hint_features(hint.to(dtype)), weight) for hint, weight in hints]
    context, unconditional = context.to(dtype), unconditional.to(dtype)

    def predict(latent: Tensor, timestep: int, context: Tensor, passes: int) -> Tensor:
        own, latent = latent.dtype, latent.to(dtype)
        timesteps = torch.full((len(latent),), timestep, device=latent.device)
        total: list[Tensor] | None = None
        for feature, weight in features:
            outputs = networks.control.control(latent, timesteps, context, feature, passes)
            if weight != 1.0:
                outputs = [weight * part for part in outputs]
            total = outputs if total is None else [a + b for a, b in zip(total, outputs, strict=True)]
        output = networks.decoder(networks.encode(latent, timesteps, context, passes), context, total)
        return output.to(own)  # under autocast guidance would be computed in half precision

    def noise(output: Tensor, latent: Tensor, timestep: int) -> Tensor:
        at = torch.full((1,), timestep, device=latent.device)
        return predicted_noise(output, latent, at, networks.prediction)

    if guidance_scale == 1.0:
        return lambda latent, t: noise(predict(latent, t, context, passes=1), latent, t)
    if shares_text is None:
        shares_text = _same_rows(context) and _same_rows(unconditional)
    if shares_text:
        context, unconditional = context[:1], unconditional[:1]
    both = torch.cat([context, unconditional])
    # Guidance of v and of the noise are the same: each is the other times a number plus the latent's share.
    return lambda latent, t: noise(guided(predict(latent, t, both, passes=2), guidance_scale), latent, t)


def free_noise_predictor(
    encoder: UNetEncoder, decoder: UNetDecoder, context: Tensor, unconditional: Tensor, guidance_scale: float
) -> NoisePredictor:
    """Noise prediction of a base that predicts noise, alone and guided, without any control."""
    both = torch.cat([context, unconditional])

    def predict(latent: Tensor, timestep: int) -> Tensor:
        timesteps = torch.full((len(latent),), timestep, device=latent.device)
        return guided(decoder(encoder(latent, timesteps, both, passes=2), both), guidance_scale)

    return predict


def _same_rows(tensor: Tensor) -> bool:
    return bool((tensor == tensor[:1]).all())


@torch.no_grad()
def sample_latents(
    predict_noise: NoisePredictor,
    seeds: Sequence[int],
    height: int,
    width: int,
    steps: int = 50,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, Tensor], None] | None = None,
    sampler: Sampler = "ddim",
    prediction: Prediction = "epsilon",
) -> Tensor:
    """Latents (B, 4, H/8, W/8), scaled, one per seed; ``height`` and ``width`` in pixels, multiples of 64.

    ``prediction``: what the networks behind ``predict_noise`` give, which DPM-Solver++ asks for.
    """
    noise = torch.cat([starting_noise(seed, height // 8, width // 8) for seed in seeds])
    if sampler == "dpmpp-2m":
        return dpm_solver_sample(predict_noise, noise.to(device), steps, prediction, on_step)
    return ddim_sample(predict_noise, noise.to(device), steps, on_step)
