"""The maths against recordings of the published implementation (tolerances: see each test)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from siamese_core.architecture import TINY
from siamese_core.diffusers_backend.mask_sampling import controlled_noise_predictor
from siamese_core.diffusers_backend.networks import SiameseNetworks
from siamese_core.diffusers_backend.siamese_model import model_from_file
from siamese_core.method.ddim import ddim_sample
from siamese_core.method.noise_schedule import alphas_cumprod, ddim_timesteps
from siamese_core.method.objective import ObjectiveSettings, siamese_step
from siamese_core.weights.key_layouts import PREFIXES
from siamese_core.weights.key_names import entries
from siamese_core.weights.model_file import load_model
from siamese_core.weights.schedule_buffers import position_ids, schedule_buffers
from tests.support.goldens import TERMS, TrainingCase, check_gradients, load_goldens, named_gradients

GOLDENS = load_goldens()
SETTINGS = ObjectiveSettings()


@pytest.fixture(scope="module")
def networks() -> SiameseNetworks:
    return GOLDENS.networks()


def run(networks: SiameseNetworks, case: TrainingCase) -> object:
    for parameter in networks.trained_parameters():
        parameter.grad = None
    return siamese_step(
        networks, GOLDENS.batch(case.timesteps), SETTINGS, case.k, case.total, lambda loss: loss.backward()
    )


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", GOLDENS.cases, ids=str)
def test_losses_and_gradients_equal_the_recording(networks: SiameseNetworks, case: TrainingCase) -> None:
    terms = run(networks, case)

    assert terms.loss.item() == pytest.approx(case.loss, rel=1e-5)
    taking_part = case.timesteps <= SETTINGS.augmentation_max_timestep
    active = SETTINGS.augments(case.k, case.total) and bool(taking_part.any())
    assert active == case.augments
    for theirs, ours in TERMS.items():
        if theirs not in case.per_sample:
            continue
        kept = taking_part if theirs == "aug" else torch.ones_like(taking_part)
        expected, actual = case.per_sample[theirs][kept], getattr(terms, ours)[kept]
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)
    if case.predictions:
        close(terms.noise_mask, case.predictions["eps_mask"])
        close(terms.noise_image, case.predictions["eps_image"])
    if case.gradient_norms is not None:
        check_gradients(GOLDENS, named_gradients(networks, GOLDENS.architecture()), case)


def test_the_frozen_encoder_and_the_shadow_decoder_receive_no_gradient(networks: SiameseNetworks) -> None:
    run(networks, next(case for case in GOLDENS.cases if case.augments))

    assert all(weight.grad is None for weight in networks.encoder.parameters())
    assert all(weight.grad is None for weight in networks.shadow.parameters())
    assert all(weight.grad is not None for weight in networks.trained_parameters())


def test_the_image_branch_alone_sends_no_gradient_to_the_decoder(networks: SiameseNetworks) -> None:
    case = next(case for case in GOLDENS.cases if case.k and not case.augments)
    for parameter in networks.trained_parameters():
        parameter.grad = None
    parts: list[Tensor] = []

    def only_the_first(loss: Tensor) -> None:
        parts.append(loss)
        if len(parts) == 1:  # L_i is back-propagated first
            loss.backward()

    siamese_step(networks, GOLDENS.batch(case.timesteps), SETTINGS, case.k, case.total, only_the_first)

    assert all(weight.grad is None for weight in networks.decoder.parameters())
    assert any(weight.grad is not None for weight in networks.control.parameters())


def test_five_optimiser_steps_follow_the_recording() -> None:
    recorded = GOLDENS.manifest.get("trajectory")
    if recorded is None:
        pytest.skip("this recording has no trajectory; SIAMESE_GOLDENS can name one that has")
    networks = GOLDENS.networks()
    optimizer = torch.optim.AdamW(networks.trained_parameters(), lr=recorded["lr"], weight_decay=0.01)
    start = GOLDENS.batch(GOLDENS.inputs["t"])
    for s, row in enumerate(recorded["steps"]):
        batch = replace(start, noise=torch.roll(start.noise, s, dims=0))
        terms = siamese_step(networks, batch, SETTINGS, row["k"], recorded["N"], lambda loss: loss.backward())
        optimizer.step()
        optimizer.zero_grad()
        assert terms.loss.item() == pytest.approx(row["loss"], rel=1e-4)
        for theirs in ("mask", "image", "consistency"):
            assert getattr(terms, theirs).mean().item() == pytest.approx(row["terms"][theirs], rel=1e-4)


@pytest.mark.parametrize("name", sorted(GOLDENS.samplings))
def test_ddim_ends_where_the_recording_ends(networks: SiameseNetworks, name: str) -> None:
    recorded, inputs = GOLDENS.samplings[name], GOLDENS.inputs
    steps, guidance = (float(value) for value in re.fullmatch(r"S(\d+)_g([\d.]+)", name).groups())
    if "timesteps" in recorded:
        assert ddim_timesteps(int(steps)) == recorded["timesteps"].tolist()
    latents: list[Tensor] = []
    with torch.no_grad():
        predict = controlled_noise_predictor(
            networks, [(inputs["hint_mask"], 1.0)], inputs["context"], inputs["uncond_context"], guidance
        )
        final = ddim_sample(predict, inputs["x_T"], int(steps), lambda _, latent: latents.append(latent))

    close(latents[0], recorded["x_after_step1"])
    assert (final - recorded["final"]).norm() <= 1e-4 * recorded["final"].norm()


@torch.no_grad()
def test_dhi_equals_the_recording(networks: SiameseNetworks) -> None:
    trunk = networks.control.controlnet_cond_embedding[0]
    modules = GOLDENS.modules
    if "dhi.features_sum_c" in modules:
        close(trunk(GOLDENS.inputs["hint_image"]).sum(dim=1), modules["dhi.features_sum_c"])
        return
    for name in sorted({key.split(".")[0] for key in modules if key.startswith("dhi")}):
        close(trunk(modules[f"{name}.in"]), modules[f"{name}.features"])
        close(networks.control.hint_features(modules[f"{name}.in"]), modules[f"{name}.hint_block_out"])


@torch.no_grad()
def test_control_outputs_and_unet_equal_the_recording(networks: SiameseNetworks) -> None:
    check_control_and_unet(networks)


def test_the_published_checkpoint_gives_the_recordings_outputs_through_the_loader(tmp_path: Path) -> None:
    tensors = {**GOLDENS.weights, **schedule_buffers(), **position_ids(77)}
    for part in ("vae", "text"):
        for entry in entries(part, TINY):  # type: ignore[arg-type]
            tensors[PREFIXES[part] + entry.ldm] = torch.zeros(entry.ldm_shape)
    torch.save({"state_dict": tensors, "global_step": 3000}, tmp_path / "merged.pth")

    model = load_model(tmp_path / "merged.pth", num_heads=GOLDENS.architecture().unet.num_heads)

    assert model.kind == "full"
    check_control_and_unet(model_from_file(model).networks)


def check_control_and_unet(networks: SiameseNetworks) -> None:
    modules, inputs = GOLDENS.modules, GOLDENS.inputs
    rich = "net.x" in modules
    x, hint = (modules["net.x"], modules["net.hint"]) if rich else (inputs["x_start"], inputs["hint_mask"])
    context = modules["net.context"] if rich else inputs["context"]
    t = modules["net.t"] if rich else inputs["t"]

    control = networks.control.control(x, t, context, networks.control.hint_features(hint))
    encoded = networks.encode(x, t, context)

    if rich:
        for index, output in enumerate(control):
            close(output, modules[f"net.control.{index:02d}"])
        close(networks.decoder(encoded, context, control), modules["net.unet_with_control"])
        close(networks.decoder(encoded, context), modules["net.unet_no_control"])
        only_middle = [*(torch.zeros_like(part) for part in control[:-1]), control[-1]]
        close(networks.decoder(encoded, context, only_middle), modules["net.unet_only_mid_control"])
    else:
        norms = torch.stack([part.norm() for part in control])
        torch.testing.assert_close(norms, modules["control.norms"].reshape(-1), rtol=1e-5, atol=1e-4)
        for index in (0, 12):
            close(control[index][:, ::8], modules[f"control.{index:02d}"])
        close(networks.decoder(encoded, context, control), modules["unet.with_control"])
        close(networks.decoder(encoded, context), modules["unet.no_control"])


def test_the_noise_schedule_equals_the_recording() -> None:
    if not GOLDENS.schedule:
        pytest.skip("this recording has no schedule; SIAMESE_GOLDENS can name one that has")
    torch.testing.assert_close(alphas_cumprod(), GOLDENS.schedule["alphas_cumprod"], rtol=1e-6, atol=0)
