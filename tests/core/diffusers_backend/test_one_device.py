"""Training step and sampling as a GPU would run them: all on one device, and never waited for."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from siamese_core.architecture import Prediction
from siamese_core.diffusers_backend.mask_sampling import Sampler, controlled_noise_predictor
from siamese_core.diffusers_backend.multistep_solvers import multistep_sample
from siamese_core.diffusers_backend.networks import SiameseNetworks
from siamese_core.method.ddim import ddim_sample
from siamese_core.method.noise_schedule import signal_and_noise_scale
from siamese_core.method.objective import ObjectiveSettings, TrainingBatch, siamese_step
from tests.support.learning.batches import DENSE, make_batch
from tests.support.learning.one_device import MixedDevices, OneDevice, Waits
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
    moved = {item.name: getattr(batch, item.name) for item in fields(batch)} | {"host_timesteps": None}
    moved = {name: None if tensor is None else tensor.to(META) for name, tensor in moved.items()}
    return TrainingBatch(**{**moved, "host_timesteps": batch.timesteps})


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


@pytest.mark.parametrize(
    ("settings", "prediction", "checkpointing"),
    [
        ({}, "epsilon", False),
        ({"lesion_balance": 0.5, "min_snr_gamma": 5.0}, "v_prediction", True),
        ({"branches": "mask"}, "epsilon", False),
        ({"branches": "joint"}, "epsilon", True),
    ],
)
def test_a_training_step_stays_on_its_device_and_does_not_wait(
    settings: dict[str, Any], prediction: Prediction, checkpointing: bool
) -> None:
    networks = networks_on_meta(prediction)
    if checkpointing:
        networks.checkpoint_gradients()
    batch, objective = batch_on_meta(), ObjectiveSettings(**settings)
    with OneDevice():
        for part in batch.parts(2):
            terms = siamese_step(networks, part, objective, 2, 3, Tensor.backward)
            assert all(value.device == META for value in terms.means().values())
    gradients = [weight.grad for weight in networks.trained_parameters()]
    assert all(gradient is not None and gradient.device == META for gradient in gradients)


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
@pytest.mark.parametrize(
    ("sampler", "prediction", "dtype"),
    [
        ("ddim", "epsilon", torch.float16),
        ("ddim", "v_prediction", torch.float32),
        ("dpmpp-2m", "epsilon", torch.float32),
        ("dpmpp-2m", "v_prediction", torch.bfloat16),
        ("dpmpp-2m-sde", "epsilon", torch.float16),
        ("unipc", "v_prediction", torch.float16),  # waits in linalg.solve, which OneDevice does not see
    ],
)
def test_sampling_stays_on_its_device_and_does_not_wait(
    sampler: Sampler, prediction: Prediction, dtype: torch.dtype
) -> None:
    networks = networks_on_meta(prediction)
    for module in (networks.control, networks.encoder, networks.decoder):
        nn.Module.to(module, dtype)
    hint, context = torch.zeros(2, 3, 64, 64, device=META), torch.zeros(2, 5, 32, device=META)
    start = torch.zeros(2, 4, 8, 8, device=META)
    with OneDevice():
        predict = controlled_noise_predictor(
            networks, [(hint, 1.0), (hint, 0.5)], context, context, 3.0, shares_text=True
        )
        if sampler == "ddim":
            latents = ddim_sample(predict, start, 3)
        else:
            latents = multistep_sample(
                sampler, predict, start, 3, prediction, step_noise=lambda _: torch.zeros_like(start)
            )
    assert (latents.shape, latents.device, latents.dtype) == ((2, 4, 8, 8), META, torch.float32)


def test_under_bf16_autocast_networks_compute_in_bf16_and_losses_and_gradients_are_float32() -> None:
    networks = small_networks(DENSE)
    seen: list[torch.dtype] = []
    networks.control.controlnet_mid_block.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        terms = siamese_step(
            networks, make_batch((900, 3), side=4), ObjectiveSettings(), 2, 3, Tensor.backward
        )
    assert set(seen) == {torch.bfloat16}
    assert {value.dtype for value in terms.means().values()} == {torch.float32}
    assert {weight.grad.dtype for weight in networks.trained_parameters() if weight.grad is not None} == {
        torch.float32
    }
