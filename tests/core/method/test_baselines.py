"""The objective's baselines: mask or image alone, and mask + image in one control."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from siamese_core.diffusers_backend.networks import SiameseNetworks
from siamese_core.method.noise_schedule import add_noise
from siamese_core.method.objective import ObjectiveSettings, TrainingBatch
from tests.support.learning.batches import DENSE, make_batch
from tests.support.learning.objective_steps import LATE, gradients, names_of, run
from tests.support.small_models import small_networks


@pytest.fixture(scope="module")
def networks() -> SiameseNetworks:
    return small_networks(DENSE)


@pytest.fixture(scope="module")
def batch() -> TrainingBatch:
    return make_batch((10, 200, 201, 900))


def test_the_mask_baseline_calls_no_image_branch_and_has_one_term(
    networks: SiameseNetworks, batch: TrainingBatch
) -> None:
    terms, parts, calls = run(networks, batch, ObjectiveSettings(branches="mask"))

    assert names_of(calls) == ["encoder", "hint", "control", "decoder", "backward"]
    assert terms.loss.item() == pytest.approx(terms.mask.mean().item()) == pytest.approx(parts[0])
    assert not any(term.any() for term in (terms.image, terms.consistency, terms.augmentation))
    assert torch.equal(terms.noise_image, terms.noise_mask)


def test_training_on_the_image_alone_is_the_mask_baseline_with_the_image_as_its_hint(
    networks: SiameseNetworks, batch: TrainingBatch
) -> None:
    image, _, calls = run(networks, batch, ObjectiveSettings(branches="image"))
    as_mask = replace(batch, mask_hint=batch.image_hint)
    mask, _, _ = run(networks, as_mask, ObjectiveSettings(branches="mask"))

    assert names_of(calls) == ["encoder", "hint", "control", "decoder", "backward"]
    assert torch.equal(image.noise_mask, mask.noise_mask)
    assert image.loss == mask.loss


@pytest.mark.parametrize(("step", "checkpointing"), [(0, False), (LATE, False), (LATE, True)])
def test_the_joint_baseline_is_the_loss_of_the_mixed_control_with_all_its_gradients(
    step: int, checkpointing: bool
) -> None:
    networks, batch = small_networks(DENSE, torch.float64), make_batch((10, 900), side=4, dtype=torch.float64)
    expected_loss = joint_loss(networks, batch, mask_weight=0.7)
    expected_loss.backward()
    expected = gradients(networks)
    if checkpointing:
        networks.checkpoint_gradients()
    terms, parts, calls = run(networks, batch, ObjectiveSettings(branches="joint", mask_weight=0.7), step)
    actual = gradients(networks)

    assert terms.loss.item() == pytest.approx(expected_loss.item(), rel=1e-6)
    assert parts == pytest.approx([terms.mask.mean().item()])
    assert not any(term.any() for term in (terms.image, terms.consistency, terms.augmentation))
    assert "shadow" not in names_of(calls) and names_of(calls).count("backward") == 1
    assert len(actual) == len(list(networks.trained_parameters()))
    assert actual.keys() == expected.keys()
    largest = max(float(grad.norm()) for grad in expected.values())
    for name, grad in expected.items():
        difference = float((actual[name] - grad).norm())
        assert difference <= 1e-5 * float(grad.norm()) + 1e-8 * largest, name


def joint_loss(networks: SiameseNetworks, batch: TrainingBatch, mask_weight: float) -> Tensor:
    """|decoder(enc(z_t), w_m c_m + c_i) - eps|^2 as one graph."""
    control, t, context = networks.control, batch.timesteps, batch.context
    z_t = add_noise(batch.latent, batch.noise, t)
    c_m = control.control(z_t, t, context, control.hint_features(batch.mask_hint))
    c_i = control.control(z_t, t, context, control.hint_features(batch.image_hint))
    mixed = [mask_weight * m + i for m, i in zip(c_m, c_i, strict=True)]
    predicted = networks.decoder(networks.encode(z_t, t, context), context, mixed)
    return (predicted - batch.noise).square().mean()


def test_both_hints_of_the_joint_baseline_send_gradient_to_the_hint_block(
    networks: SiameseNetworks, batch: TrainingBatch
) -> None:
    blank = torch.zeros_like(batch.mask_hint)
    found = []
    for hints in ({}, {"mask_hint": blank}, {"image_hint": blank}):
        run(networks, replace(batch, **hints), ObjectiveSettings(branches="joint"))
        found.append(networks.hint_parameters()[0].grad.clone())

    both, image_alone, mask_alone = found  # the first convolution's weights: nothing comes from a blank hint
    assert image_alone.any() and mask_alone.any()
    assert not torch.allclose(both, image_alone) and not torch.allclose(both, mask_alone)


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        (ObjectiveSettings(), (1.0, 0.0)),
        (ObjectiveSettings(mask_weight=0.5), (1.0, 0.0)),  # in the mix, which is not sampled with
        (ObjectiveSettings(branches="mask"), (1.0, 0.0)),
        (ObjectiveSettings(branches="image"), (0.0, 1.0)),
        (ObjectiveSettings(branches="joint"), (1.0, 1.0)),
        (ObjectiveSettings(branches="joint", mask_weight=0.5), (0.5, 1.0)),
    ],
)
def test_a_model_is_sampled_with_the_controls_that_its_decoder_was_trained_on(
    settings: ObjectiveSettings, weights: tuple[float, float]
) -> None:
    assert settings.hint_weights == weights
