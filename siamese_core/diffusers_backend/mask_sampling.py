"""Sampling latents for masks with the diffusers-backed networks: hints, control, decoder, guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ..architecture import Prediction
from ..method.ddim import NoisePredictor, ddim_sample, guided
from ..method.noise_schedule import predicted_noise
from ..seeds import starting_noise, step_noise
from .multistep_solvers import multistep_sample
from .networks import SiameseNetworks, UNetDecoder, UNetEncoder

Sampler = Literal["ddim", "dpmpp-2m", "unipc", "dpmpp-2m-sde"]
"""The paper's DDIM; DPM-Solver++(2M) and UniPC, which need fewer steps; and SDE-DPM-Solver++(2M)."""

DEFAULT_STEPS: dict[Sampler, int] = {"ddim": 50, "dpmpp-2m": 15, "unipc": 19, "dpmpp-2m-sde": 25}


def steps_in_words(steps: Mapping[Sampler, int] = DEFAULT_STEPS) -> str:
    """For help texts: ``"50 for ddim, 15 for ..."``."""
    return ", ".join(f"{count} for {sampler}" for sampler, count in steps.items())


def controlled_noise_predictor(
    networks: SiameseNetworks,
    hints: Sequence[tuple[Tensor, float]],
    context: Tensor,
    unconditional: Tensor,
    guidance_scale: float,
    shares_text: bool | None = None,
) -> NoisePredictor:
    """Guided noise prediction under the sum of controls ``weight * ControlNet(hint)``.

    ``hints``: pairs of a hint (B, 3, H, W) in [0, 1] and its weight. The single pair (mask, 1.0) is
    Mask-Diffusion; a second one, (image, w_i), adds the image prior (Image-Diffusion). ``context`` and
    ``unconditional`` are (B, tokens, width). Hint features are computed once, in this call. Both guidance
    passes run as one batch and share whatever does not depend on the text.

    ``shares_text``: all rows have the same text, so its keys and values are computed once. None compares the
    rows, but since sharing changes the last bits, callers whose results must not depend on the composition of
    the batch should pass it. Guidance is computed in the latents' dtype, whatever the networks' dtype is.
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
        return output.to(own)  # or guidance would be computed in half precision

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
    # Guidance may be applied to v: for a fixed latent the noise is an affine function of v.
    return lambda latent, t: noise(guided(predict(latent, t, both, passes=2), guidance_scale), latent, t)


def free_noise_predictor(
    encoder: UNetEncoder, decoder: UNetDecoder, context: Tensor, unconditional: Tensor, guidance_scale: float
) -> NoisePredictor:
    """Guided noise prediction of an epsilon-prediction base without control.

    ``context`` and ``unconditional`` are (B, tokens, width).
    """
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
    *,
    device: torch.device | str,
    on_step: Callable[[int, Tensor], None] | None = None,
    sampler: Sampler = "ddim",
    prediction: Prediction = "epsilon",
) -> Tensor:
    """Sample one scaled latent per seed: (B, 4, H/8, W/8).

    ``height`` and ``width`` are in pixels, multiples of 64. ``prediction`` is what the networks behind
    ``predict_noise`` were trained to predict; DDIM does not use it.
    """

    def each(noise_of: Callable[[int, int, int], Tensor]) -> Tensor:
        return torch.cat([noise_of(seed, height // 8, width // 8) for seed in seeds]).to(device)

    start = each(starting_noise)
    if sampler == "ddim":
        return ddim_sample(predict_noise, start, steps, on_step)
    return multistep_sample(
        sampler,
        predict_noise,
        start,
        steps,
        prediction,
        on_step,
        lambda step: each(partial(step_noise, step)),
    )
