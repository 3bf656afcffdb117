"""Schedule, DDIM and the noise predictors built on the networks."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from siamese_core.diffusers_backend.mask_sampling import (
    controlled_noise_predictor,
    free_noise_predictor,
    sample_latents,
)
from siamese_core.diffusers_backend.networks import SiameseNetworks
from siamese_core.method.ddim import ddim_sample, guided, to_uint8
from siamese_core.method.noise_schedule import (
    BETA_END,
    BETA_SCHEDULE,
    BETA_START,
    TRAIN_TIMESTEPS,
    add_noise,
    alphas_cumprod,
    ddim_timesteps,
    renoise,
)
from siamese_core.seeds import starting_noise
from tests.support.small_models import recorded_calls, small_networks

RNG = torch.Generator().manual_seed(4)
LATENT = torch.randn((3, 4, 8, 8), generator=RNG)
NOISE = torch.randn((3, 4, 8, 8), generator=RNG)
CONTEXT = torch.randn((3, 5, 32), generator=RNG)
UNCONDITIONAL = torch.randn((1, 5, 32), generator=RNG).expand(3, -1, -1)
MASK = (torch.rand((3, 1, 64, 64), generator=RNG) > 0.5).float().repeat(1, 3, 1, 1)
IMAGE = torch.rand((3, 3, 64, 64), generator=RNG)


@pytest.fixture(scope="module")
def networks() -> SiameseNetworks:
    return small_networks()


def test_fifty_steps_are_the_published_timesteps() -> None:
    assert ddim_timesteps(50) == list(range(981, 0, -20))


def test_steps_that_do_not_divide_1000_give_more_timesteps() -> None:
    timesteps = ddim_timesteps(30)

    assert len(timesteps) == 31
    assert (timesteps[0], timesteps[-1]) == (991, 1)


@pytest.mark.parametrize(("steps", "expected"), [(1, [1]), (2, [501, 1]), (999, list(range(999, 0, -1)))])
def test_extreme_numbers_of_steps_stay_within_the_schedule(steps: int, expected: list[int]) -> None:
    assert ddim_timesteps(steps) == expected


@pytest.mark.parametrize("steps", [0, -1, 1000])
def test_impossible_numbers_of_steps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=rf"1\.\.999, not {steps}"):
        ddim_timesteps(steps)


def test_the_schedule_falls_from_almost_one_to_almost_zero() -> None:
    alphas = alphas_cumprod()

    assert alphas.shape == (TRAIN_TIMESTEPS,)
    assert alphas[0].item() == pytest.approx(1 - BETA_START, rel=1e-6)
    assert alphas[-1].item() == pytest.approx(0.00466, rel=1e-3)
    assert (alphas.diff() < 0).all()


def test_renoising_is_noising_the_clean_latent_that_the_prediction_implies() -> None:
    timesteps = torch.tensor([1, 200, 999])
    noisy = add_noise(LATENT, NOISE, timesteps)
    prediction = NOISE + 0.1 * LATENT
    alphas = alphas_cumprod()[timesteps].view(-1, 1, 1, 1)
    clean = (noisy - (1 - alphas).sqrt() * prediction) / alphas.sqrt()

    actual = renoise(noisy, NOISE, prediction, timesteps)

    torch.testing.assert_close(actual, add_noise(clean, NOISE, timesteps))
    torch.testing.assert_close(renoise(noisy, NOISE, NOISE, timesteps), noisy)


@pytest.mark.parametrize("steps", [1, 30, 50])
def test_ddim_with_a_perfect_prediction_arrives_at_the_clean_latent(steps: int) -> None:
    first = torch.full((3,), ddim_timesteps(steps)[0])

    final = ddim_sample(lambda latent, timestep: NOISE, add_noise(LATENT, NOISE, first), steps)

    # The last step goes to timestep 0, whose signal is not quite 1.
    torch.testing.assert_close(final, add_noise(LATENT, NOISE, torch.zeros(3, dtype=torch.long)))
    assert (final - LATENT).abs().max() < 0.15


@pytest.mark.parametrize("steps", [1, 30, 50, 999])
def test_ddim_agrees_with_diffusers(steps: int) -> None:
    scheduler = DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule=BETA_SCHEDULE,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(steps)
    scheduler.timesteps = torch.tensor(ddim_timesteps(steps))

    def predict(latent: Tensor, timestep: int) -> Tensor:
        return torch.tanh(latent + timestep / TRAIN_TIMESTEPS)

    expected = NOISE
    for timestep in scheduler.timesteps:
        expected = scheduler.step(predict(expected, int(timestep)), timestep, expected).prev_sample

    final = ddim_sample(predict, NOISE, steps)
    assert float((final - expected).norm()) <= 1e-5 * float(expected.norm())


def test_every_step_is_reported_in_order() -> None:
    seen: list[tuple[int, Tensor]] = []

    final = ddim_sample(
        lambda latent, timestep: latent * 0.1, NOISE, 3, lambda step, latent: seen.append((step, latent))
    )

    assert [step for step, _ in seen] == list(range(len(ddim_timesteps(3))))
    assert torch.equal(seen[-1][1], final)


def test_guidance_extrapolates_from_the_unconditional_prediction() -> None:
    both = torch.cat([LATENT, NOISE])  # conditional first

    torch.testing.assert_close(guided(both, 9.0), NOISE + 9.0 * (LATENT - NOISE))
    assert torch.equal(guided(both, 0.0), NOISE)


def test_pixels_are_rounded_and_clamped() -> None:
    values = torch.tensor([-7.0, -1.0, -0.9999, 0.0, 1 / 255, 0.999, 1.0, 3.0])
    pixels = values.view(1, 1, 1, -1).repeat(1, 3, 2, 1)

    result = to_uint8(pixels)

    assert result.shape == (1, 2, 8, 3)
    assert result[0, 1, :, 2].tolist() == [0, 0, 0, 128, 128, 255, 255, 255]


def test_every_byte_survives_the_way_to_the_network_and_back() -> None:
    values = torch.arange(256).float()

    result = to_uint8((values / 127.5 - 1).half().view(1, 1, 16, 16).repeat(1, 3, 1, 1))

    assert result[0, ..., 0].flatten().tolist() == list(range(256))


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(networks: SiameseNetworks) -> None:
    seeds = [11, 12, 13]

    def sample(chosen: list[int]) -> Tensor:
        predict = controlled_noise_predictor(
            networks, [(MASK[chosen], 1.0)], CONTEXT[chosen], UNCONDITIONAL[chosen], 2.0
        )
        return sample_latents(predict, [seeds[index] for index in chosen], 64, 64, steps=3, device="cpu")

    together, alone = sample([0, 1, 2]), sample([1])
    assert float((alone - together[1:2]).norm()) <= 1e-5 * float(alone.norm())


def test_sampling_starts_from_each_seeds_own_noise() -> None:
    seen: list[Tensor] = []

    def predict(latent: Tensor, timestep: int) -> Tensor:
        seen.append(latent)
        return torch.zeros_like(latent)

    sample_latents(predict, [5, 6], height=64, width=128, steps=1, device="cpu")

    assert seen[0].shape == (2, 4, 8, 16)
    assert torch.equal(seen[0][1:], starting_noise(6, 8, 16))


@torch.no_grad()
def test_guided_prediction_is_one_doubled_pass_with_the_mask_in_both_halves(
    networks: SiameseNetworks,
) -> None:
    with recorded_calls(networks) as calls:
        predict = controlled_noise_predictor(networks, [(MASK, 1.0)], CONTEXT, UNCONDITIONAL, 5.0)
        assert calls == [("hint", 3)]
        prediction = predict(NOISE, 500)
        predict(NOISE, 1)

    assert calls[1:] == [("control", 6), ("encoder", 6), ("decoder", 6)] * 2
    conditional = controlled_noise_predictor(networks, [(MASK, 1.0)], CONTEXT, UNCONDITIONAL, 1.0)
    unconditional = controlled_noise_predictor(networks, [(MASK, 1.0)], UNCONDITIONAL, CONTEXT, 1.0)
    expected = guided(torch.cat([conditional(NOISE, 500), unconditional(NOISE, 500)]), 5.0)
    torch.testing.assert_close(prediction, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_guidance_of_one_skips_the_unconditional_pass(networks: SiameseNetworks) -> None:
    predict = controlled_noise_predictor(networks, [(MASK, 1.0)], CONTEXT, UNCONDITIONAL, 1.0)
    with recorded_calls(networks) as calls:
        predict(NOISE, 500)

    assert calls == [("control", 3), ("encoder", 3), ("decoder", 3)]


@torch.no_grad()
def test_controls_of_two_hints_are_added_by_their_weights(networks: SiameseNetworks) -> None:
    predict = controlled_noise_predictor(networks, [(MASK, 1.0), (IMAGE, 0.3)], CONTEXT, UNCONDITIONAL, 1.0)
    timesteps = torch.full((3,), 500)
    of_mask, of_image = (
        networks.control.control(NOISE, timesteps, CONTEXT, networks.control.hint_features(hint))
        for hint in (MASK, IMAGE)
    )
    total = [mask + 0.3 * image for mask, image in zip(of_mask, of_image, strict=True)]
    expected = networks.decoder(networks.encode(NOISE, timesteps, CONTEXT), CONTEXT, total)

    torch.testing.assert_close(predict(NOISE, 500), expected)


@torch.no_grad()
def test_the_base_alone_is_guided_without_any_control(networks: SiameseNetworks) -> None:
    with recorded_calls(networks) as calls:
        predict = free_noise_predictor(networks.encoder, networks.decoder, CONTEXT, UNCONDITIONAL, 3.0)
        prediction = predict(NOISE, 500)
    assert calls == [("encoder", 6), ("decoder", 6)]

    timesteps = torch.full((3,), 500)
    halves = [
        networks.decoder(networks.encode(NOISE, timesteps, context), context)
        for context in (CONTEXT, UNCONDITIONAL)
    ]
    torch.testing.assert_close(prediction, guided(torch.cat(halves), 3.0), rtol=1e-4, atol=1e-4)
