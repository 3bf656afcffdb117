"""Training step and sampling as a GPU would run them: all on one device, and never waited for."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor, nn

from siamese_core.architecture import Prediction
from siamese_core.diffusers_backend.mask_sampling import (
    Sampler,
    controlled_noise_predictor,
    free_noise_predictor,
    sample_latents,
)
from siamese_core.diffusers_backend.networks import SiameseNetworks
from siamese_core.method.noise_schedule import signal_and_noise_scale
from siamese_core.method.objective import ObjectiveSettings, TrainingBatch, siamese_step
from tests.support.batches import DENSE, make_batch
from tests.support.one_device import MixedDevices, OneDevice, Waits
from tests.support.small_models import small_networks

META = torch.device("meta")


def networks_on_meta(prediction: Prediction = "epsilon") -> SiameseNetworks:
    networks = small_networks(replace(DENSE, prediction=prediction))
    for module in (networks.control, networks.encoder, networks.decoder):
        module.to(META)
    networks.shadow = networks.decoder.shadow()
    return networks


def batch_on_meta() -> TrainingBatch:
    batch = make_batch((900, 200, 3, 500), side=4)
    tensors = {item.name: getattr(batch, item.name) for item in fields(batch) if item.name != "host_timesteps"}
    moved = {name: tensor.to(META) for name, tensor in tensors.items()}
    return TrainingBatch(**moved, host_timesteps=batch.timesteps)


@pytest.fixture(autouse=True)
def _known_schedule() -> None:
    """The noise schedule is copied to a device once, by whatever needs it first."""
    signal_and_noise_scale(torch.zeros(1, dtype=torch.long, device=META))


def test_what_a_gpu_would_refuse_or_wait_for_is_found() -> None:
    here, there = torch.zeros(2, 3, 4, 4, device=META), torch.zeros(3, 3, 1, 1)
    with pytest.raises(MixedDevices), OneDevice():
        nn.functional.conv2d(here, there)
    with pytest.raises(MixedDevices), OneDevice():
        here[torch.tensor([0, 1])] + 1
    for waiting in (here.nonzero, here[0, 0, 0, 0].item, lambda: there.to(META), lambda: bool(here.any())):
        with pytest.raises(Waits), OneDevice():
            waiting()
    with OneDevice():
        assert (here * torch.tensor(2.0)).device == META
        assert there.to(META, non_blocking=True).device == META


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("settings", [{}, {"lesion_balance": 0.5, "min_snr_gamma": 5.0}, {"branches": "mask"}])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_training_step_stays_on_its_device_and_does_not_wait(
    settings: dict[str, float], prediction: Prediction, checkpointing: bool
) -> None:
    networks = networks_on_meta(prediction)
    if checkpointing:
        networks.checkpoint_gradients()
    batch, objective = batch_on_meta(), ObjectiveSettings(**settings)
    with OneDevice():
        for part in batch.parts(2):
            terms = siamese_step(networks, part, objective, 2, 3, Tensor.backward)
            assert all(value.device == META for value in terms.means().values())
    assert all(weight.grad is not None and weight.grad.device == META for weight in networks.trained_parameters())


def test_a_batch_whose_timesteps_are_on_the_device_alone_is_waited_for() -> None:
    with pytest.raises(Waits), OneDevice():
        siamese_step(
            networks_on_meta(),
            replace(batch_on_meta(), host_timesteps=None),
            ObjectiveSettings(),
            2,
            3,
            Tensor.backward,
        )


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp-2m"])
def test_sampling_stays_on_its_device_and_does_not_wait(
    sampler: Sampler, dtype: torch.dtype, prediction: Prediction
) -> None:
    networks = networks_on_meta(prediction)
    for module in (networks.control, networks.encoder, networks.decoder):
        module.to(dtype)
    hint, context = torch.zeros(2, 3, 64, 64, device=META), torch.zeros(2, 5, 32, device=META)

    def steps(taken: int, latent: Tensor) -> None:
        assert (latent.device, latent.dtype) == (META, torch.float32)

    with OneDevice():
        predict = controlled_noise_predictor(
            networks, [(hint, 1.0), (hint, 0.5)], context, context, 3.0, shares_text=True
        )
        free = free_noise_predictor(networks.encoder, networks.decoder, context, context, 3.0)
    for noise in (predict, free) if dtype == torch.float32 else (predict,):
        latents = _latents(noise, sampler, prediction, steps)
        assert (latents.shape, latents.device) == ((2, 4, 8, 8), META)


def _latents(noise, sampler, prediction, on_step):  # type: ignore[no-untyped-def]
    """Sampling, the copy of the noise it starts from aside."""
    begun = [False]

    def predict(latent: Tensor, timestep: int) -> Tensor:
        if not begun[0]:
            mode.__enter__()
            begun[0] = True
        return noise(latent, timestep)

    mode = OneDevice()
    try:
        return sample_latents(
            predict, (1, 2), 64, 64, 3, META, on_step=on_step, sampler=sampler, prediction=prediction
        )
    finally:
        mode.__exit__(None, None, None)


def test_under_bf16_autocast_networks_compute_in_bf16_and_losses_and_gradients_are_float32() -> None:
    networks = small_networks(DENSE)
    seen: list[torch.dtype] = []
    networks.control.controlnet_mid_block.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        terms = siamese_step(
            networks, make_batch((900, 3), side=4), ObjectiveSettings(), 2, 3, Tensor.backward
        )
    assert set(seen) == {torch.bfloat16}
    assert terms.noise_mask.dtype == torch.bfloat16
    assert {value.dtype for value in terms.means().values()} == {torch.float32}
    assert {weight.grad.dtype for weight in networks.trained_parameters() if weight.grad is not None} == {
        torch.float32
    }
