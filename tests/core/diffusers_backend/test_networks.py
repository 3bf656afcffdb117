from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from siamese_core.architecture import Architecture
from siamese_core.diffusers_backend.base_model import build_unet
from siamese_core.diffusers_backend.networks import DHIControlNet, SiameseNetworks, UNetDecoder, UNetEncoder
from tests.support.small_models import ARCHITECTURE, small_networks

SPARSE = replace(ARCHITECTURE, hint_block="sparse")
RNG = torch.Generator().manual_seed(2)
LATENT = torch.randn((2, 4, 8, 8), generator=RNG)
CONTEXT = torch.randn((2, 5, 32), generator=RNG)
HINT = torch.rand((2, 3, 64, 64), generator=RNG)
TIMESTEPS = torch.tensor([3, 700])


shared_networks = cache(small_networks)
"""Networks by architecture, for tests that do not change them."""


@pytest.fixture
def networks() -> SiameseNetworks:
    return shared_networks(ARCHITECTURE)


def controls(control: DHIControlNet, hint: Tensor = HINT) -> list[Tensor]:
    with torch.no_grad():
        return control.control(LATENT, TIMESTEPS, CONTEXT, control.hint_features(hint))


def decoded(networks: SiameseNetworks, decoder: UNetDecoder) -> Tensor:
    with torch.no_grad():
        return decoder(networks.encode(LATENT, TIMESTEPS, CONTEXT), CONTEXT, controls(networks.control))


@torch.no_grad()
def test_encoder_and_decoder_together_are_the_unet() -> None:
    unet = build_unet(ARCHITECTURE.unet)
    encoded = UNetEncoder(unet)(LATENT, TIMESTEPS, CONTEXT)
    extra = [torch.randn_like(part) for part in (*encoded.skips, encoded.middle)]

    expected = unet(LATENT, TIMESTEPS, CONTEXT).sample
    torch.testing.assert_close(UNetDecoder(unet)(encoded, CONTEXT), expected)
    expected = unet(
        LATENT,
        TIMESTEPS,
        CONTEXT,
        down_block_additional_residuals=tuple(extra[:-1]),
        mid_block_additional_residual=extra[-1],
    ).sample
    torch.testing.assert_close(UNetDecoder(unet)(encoded, CONTEXT, extra), expected)


def test_control_is_added_to_what_was_encoded_without_changing_it(networks: SiameseNetworks) -> None:
    encoded = networks.encode(LATENT, TIMESTEPS, CONTEXT)
    before = [part.clone() for part in (*encoded.skips, encoded.middle)]

    with torch.no_grad():
        networks.decoder(encoded, CONTEXT, controls(networks.control))

    assert all(torch.equal(a, b) for a, b in zip(before, (*encoded.skips, encoded.middle), strict=True))


def test_a_new_control_network_starts_as_the_encoder_and_adds_nothing() -> None:
    unet = build_unet(ARCHITECTURE.unet)
    control = DHIControlNet.initialised_from(unet, ARCHITECTURE)

    of_unet, of_control = unet.state_dict(), control.state_dict()
    copied = [name for name in of_unet if name.split(".")[0] in vars(UNetEncoder(unet))["_modules"]]
    assert len(copied) > 100
    for name in copied:
        assert torch.equal(of_control[name], of_unet[name]), name
        assert of_control[name].data_ptr() != of_unet[name].data_ptr()
    outputs = controls(control)
    assert len(outputs) == 13
    assert not any(output.any() for output in outputs)


@pytest.mark.parametrize("architecture", [ARCHITECTURE, SPARSE], ids=lambda a: a.hint_block)
def test_own_and_inherited_forward_give_the_same_thirteen_controls(architecture: Architecture) -> None:
    control = shared_networks(architecture).control

    ours = controls(control)
    with torch.no_grad():
        down, middle = control(LATENT, TIMESTEPS, CONTEXT, HINT, return_dict=False)

    assert len(ours) == 13
    assert all(output.any() for output in ours)
    for mine, theirs in zip(ours, [*down, middle], strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_saved_control_network_is_read_back_with_its_hint_block(tmp_path: Path) -> None:
    control = shared_networks(SPARSE).control
    control.save_pretrained(str(tmp_path))

    again = DHIControlNet.from_pretrained(str(tmp_path), local_files_only=True)

    assert again.config.hint_block == "sparse"
    weights, expected = again.state_dict(), control.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], weight) for key, weight in expected.items())
    # Equal weights at other addresses may be summed in another order.
    torch.testing.assert_close(controls(again), controls(control))


@pytest.mark.parametrize("architecture", [ARCHITECTURE, SPARSE], ids=lambda a: a.hint_block)
def test_either_hint_block_reaches_every_output_and_gets_a_gradient(architecture: Architecture) -> None:
    networks = shared_networks(architecture)
    networks.control.zero_grad()
    control = networks.control

    features = control.hint_features(HINT)
    assert features.shape == (2, 32, 8, 8)
    encoded = networks.encode(LATENT, TIMESTEPS, CONTEXT)
    outputs = control.control(LATENT, TIMESTEPS, CONTEXT, features)
    networks.decoder(encoded, CONTEXT, outputs).square().mean().backward()

    grads = [weight.grad for weight in control.controlnet_cond_embedding.parameters()]
    assert all(grad is not None and grad.any() for grad in grads)
    for changed, output in zip(controls(control, 1 - HINT), outputs, strict=True):
        assert not torch.equal(changed, output)


def test_the_shadow_shares_the_decoders_storage_and_asks_for_no_gradient(networks: SiameseNetworks) -> None:
    live, shadow = dict(networks.decoder.named_parameters()), dict(networks.shadow.named_parameters())

    assert live.keys() == shadow.keys()
    assert all(live[name].data_ptr() == shadow[name].data_ptr() for name in live)
    assert all(weight.requires_grad for weight in live.values())
    assert not any(weight.requires_grad for weight in shadow.values())


def test_the_shadow_passes_gradients_on_and_keeps_none(networks: SiameseNetworks) -> None:
    control = [part.requires_grad_() for part in controls(networks.control)]
    encoded = networks.encode(LATENT, TIMESTEPS, CONTEXT)

    networks.decoder.zero_grad()
    networks.shadow(encoded, CONTEXT, control).square().mean().backward()

    assert all(part.grad is not None and part.grad.any() for part in control)
    assert all(weight.grad is None for weight in networks.shadow.parameters())
    assert all(weight.grad is None for weight in networks.decoder.parameters())


def test_the_shadow_follows_an_optimiser_step() -> None:
    networks = small_networks()
    before = decoded(networks, networks.shadow)
    optimizer = torch.optim.AdamW(networks.decoder.parameters(), lr=0.01, fused=True)
    encoded = networks.encode(LATENT, TIMESTEPS, CONTEXT)
    networks.decoder(encoded, CONTEXT).square().mean().backward()
    optimizer.step()

    after = decoded(networks, networks.shadow)
    assert not torch.allclose(after, before)
    assert torch.equal(after, decoded(networks, networks.decoder))


def test_the_shadow_follows_weights_that_are_loaded() -> None:
    networks = small_networks()
    before = decoded(networks, networks.shadow)
    weights = {name: value * 0.5 for name, value in networks.decoder.state_dict().items()}
    networks.decoder.load_state_dict(weights)

    after = decoded(networks, networks.shadow)
    assert not torch.allclose(after, before)
    assert torch.equal(after, decoded(networks, networks.decoder))


def test_only_the_encoder_half_of_the_unet_is_frozen(networks: SiameseNetworks) -> None:
    trained = {id(weight) for weight in networks.trained_parameters()}

    assert not any(weight.requires_grad for weight in networks.encoder.parameters())
    assert all(weight.requires_grad for weight in networks.trained_parameters())
    assert len(trained) == len(list(networks.control.parameters())) + len(list(networks.decoder.parameters()))
    assert not trained & {id(weight) for weight in networks.encoder.parameters()}
    assert not networks.encode(LATENT, TIMESTEPS, CONTEXT).middle.requires_grad
