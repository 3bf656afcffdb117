"""Where a frame shows around what is generated, and that its latents stay it in sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from siamese_core.diffusers_backend.multistep_solvers import multistep_sample
from siamese_core.method.background_blending import (
    KeptLatents,
    blend_weights,
    generated_latents,
    over_frame,
)
from siamese_core.method.ddim import NoisePredictor, ddim_sample


def disc(side: int = 64, radius: int = 10) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return ((rows - 30) ** 2 + (columns - 20) ** 2 < radius**2)[None]


def distance(mask: torch.Tensor) -> np.ndarray:
    """Of each pixel to the nearest of ``mask`` (1, H, W), along rows or columns, whichever is more."""
    points = np.argwhere(mask[0].numpy())
    grid = np.argwhere(np.ones(mask.shape[1:], bool))
    found: np.ndarray = np.abs(grid[:, None] - points[None]).max(axis=2).min(axis=1)
    return found.reshape(mask.shape[1:])


@pytest.mark.parametrize("blend", [1, 4, 7, 12])
def test_weights_are_one_in_the_mask_and_nothing_beyond_the_blend(blend: int) -> None:
    weights = blend_weights(disc(), blend)[0].numpy()
    away = distance(disc())
    assert (weights[away <= blend - blend // 2 - blend // 2] == 1).all()
    assert (weights[disc()[0].numpy()] == 1).all()
    assert (weights[away > blend] == 0).all()
    rim = weights[(away > 0) & (away <= blend)]
    assert (rim > 0).all() and (rim <= 1).all()


def test_weights_fall_evenly_across_the_feather() -> None:
    half = torch.zeros(1, 5, 40, dtype=torch.bool)
    half[:, :, :10] = True
    # Grown by four pixels; of the nine around each pixel, those in the grown mask.
    row = blend_weights(half, 8)[0, 2]
    assert row[:10].tolist() == [1.0] * 10
    assert torch.allclose(row[10:18], torch.arange(8, 0, -1) / 9)
    assert not row[18:].any()


def test_without_a_blend_the_mask_is_cut_out_and_an_empty_mask_generates_nothing() -> None:
    assert torch.equal(blend_weights(disc(), 0), disc().float())
    assert not blend_weights(torch.zeros(2, 16, 16, dtype=torch.bool), 8).any()


def test_a_mask_of_the_whole_image_shows_nothing_of_the_frame() -> None:
    assert torch.equal(blend_weights(torch.ones(1, 8, 8, dtype=torch.bool), 40), torch.ones(1, 8, 8))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_outside_of_the_blend_the_image_is_the_frame_exactly(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    image, frame = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=generator)
    if dtype == torch.float32:
        image, frame = image / 255, frame / 255
    weights = blend_weights(disc(), 6)[0]
    result = over_frame(image, frame, weights)

    assert result.dtype == dtype
    assert torch.equal(result[weights == 0], frame[weights == 0])
    assert torch.equal(result[weights == 1], image[weights == 1])
    low, high = torch.minimum(image, frame).float(), torch.maximum(image, frame).float()
    slack = 0 if dtype == torch.uint8 else 1e-6
    assert ((result >= low - slack) & (result <= high + slack)).all()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 72), (40, 30)])
def test_every_pixel_that_is_generated_lies_in_a_latent_that_is(height: int, width: int) -> None:
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[:, 21:24, 11:14] = True
    weights = blend_weights(mask, 3)
    latents = generated_latents(weights, (8, 8))

    assert latents.shape == (1, 1, 8, 8) and latents.dtype == torch.bool
    for row, column in torch.nonzero(weights[0]).tolist():
        assert latents[0, 0, row * 8 // height, column * 8 // width]
    assert not latents[0, 0, 7:].any()


def ddim(predict: NoisePredictor, noise: torch.Tensor) -> torch.Tensor:
    return ddim_sample(predict, noise, 20)


def dpm_solver(predict: NoisePredictor, noise: torch.Tensor) -> torch.Tensor:
    return multistep_sample("dpmpp-2m", predict, noise, 12)


def unipc(predict: NoisePredictor, noise: torch.Tensor) -> torch.Tensor:
    return multistep_sample("unipc", predict, noise, 12)


def sde_dpm_solver(predict: NoisePredictor, noise: torch.Tensor) -> torch.Tensor:
    return multistep_sample("dpmpp-2m-sde", predict, noise, 12, step_noise=lambda _: torch.ones_like(noise))


@pytest.mark.parametrize("sample", [ddim, dpm_solver, unipc, sde_dpm_solver])
def test_kept_latents_lead_to_the_frame_and_leave_the_others_to_the_model(sample: object) -> None:
    assert callable(sample)
    frames, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    generated = torch.zeros(3, 1, 8, 8, dtype=torch.bool)
    generated[:, :, 2:5, 2:5] = True
    kept = KeptLatents(frames, generated)

    def predict(latent: torch.Tensor, timestep: int) -> torch.Tensor:
        return latent * 0.9

    final = sample(kept.around(predict), noise)
    free = sample(predict, noise)
    inside = generated.expand_as(final)
    # Samplers end at the schedule's lowest noise, not at none.
    assert (final - frames)[~inside].abs().max() < 0.2
    assert torch.equal(final[inside], free[inside])
    assert torch.equal(kept.restored_in(final)[~inside], frames[~inside])
    assert torch.equal(kept.restored_in(final)[inside], final[inside])

    alone = KeptLatents(frames[1:2], generated[1:2])
    assert torch.equal(sample(alone.around(predict), noise[1:2]), final[1:2])


def test_a_frame_is_seen_under_the_noise_that_the_sample_has_begun_with() -> None:
    """Half way the kept latents are the frame's at that level of noise, as the model has learnt them."""
    frames, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    kept = KeptLatents(frames, torch.zeros(1, 1, 8, 8, dtype=torch.bool))
    seen: list[torch.Tensor] = []
    ddim_sample(kept.around(lambda latent, t: latent), noise, 10, lambda i, latent: seen.append(latent))

    middle = seen[4]
    signal, level = (middle * frames).mean() / (frames**2).mean(), (middle * noise).mean() / (noise**2).mean()
    assert 0.3 < float(signal) < 1.0
    assert abs(float(signal**2 + level**2) - 1) < 0.15
