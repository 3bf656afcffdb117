"""The objective's switches, gates and schedule of passes; its maths is checked in test_goldens."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from siamese_core.architecture import Architecture
from siamese_core.diffusers_backend.networks import SiameseNetworks
from siamese_core.method.noise_schedule import add_noise, alphas_cumprod, renoise
from siamese_core.method.objective import (
    ObjectiveSettings,
    TrainingBatch,
    per_sample_error,
)
from tests.support.learning.batches import DENSE, SPARSE, make_batch
from tests.support.learning.objective_steps import EARLY, LATE, TOTAL, gradients, names_of, run
from tests.support.small_models import small_networks

TIMESTEPS = (10, 200, 201, 900)


@pytest.fixture(scope="module")
def networks() -> SiameseNetworks:
    return small_networks(DENSE)


@pytest.fixture(scope="module")
def batch() -> TrainingBatch:
    return make_batch(TIMESTEPS)


def test_the_signal_to_noise_ratio_weighs_the_terms_of_each_sample(
    networks: SiameseNetworks, batch: TrainingBatch
) -> None:
    settings = ObjectiveSettings(snr_exponent=0.5, consistency_weight=0.5, augmentation_weight=2.0)
    plain, _, _ = run(networks, batch, replace(settings, snr_exponent=0.0))
    terms, parts, _ = run(networks, batch, settings)

    abar = alphas_cumprod()[batch.timesteps]
    expected = (abar / (1 - abar) + 0.01).rsqrt()
    assert expected[0] < expected[-1]
    for name in ("mask", "image", "consistency", "augmentation"):  # reported as they are
        assert torch.equal(getattr(terms, name), getattr(plain, name))
    sums = plain.mask + plain.image + 0.5 * plain.consistency + 2.0 * plain.augmentation
    assert terms.loss.item() == pytest.approx((expected * sums).mean().item(), rel=1e-5)
    assert sum(parts) == pytest.approx(terms.loss.item(), rel=1e-5)


def test_min_snr_weighs_easy_timesteps_less(networks: SiameseNetworks, batch: TrainingBatch) -> None:
    plain, _, _ = run(networks, batch)
    terms, parts, _ = run(networks, batch, ObjectiveSettings(min_snr_gamma=5.0))

    abar = alphas_cumprod()[batch.timesteps]
    snr = abar / (1 - abar)
    expected = torch.minimum(snr, torch.tensor(5.0)) / snr
    assert expected[0] < 0.1
    assert expected[-1] == 1
    sums = plain.mask + plain.image + plain.consistency + plain.augmentation
    assert terms.loss.item() == pytest.approx((expected * sums).mean().item(), rel=1e-5)
    assert sum(parts) == pytest.approx(terms.loss.item(), rel=1e-5)


def test_balanced_pixels_give_lesion_and_background_half_of_the_loss_each() -> None:
    hint = torch.zeros(4, 3, 32, 32)
    hint[0, :, :8, :8] = 1  # one latent pixel of sixteen
    hint[1, :, :8, :4] = 1  # half of one
    hint[2] = 1
    whole = ObjectiveSettings(lesion_balance=1.0).pixel_weights(hint)
    part = ObjectiveSettings(lesion_balance=0.25).pixel_weights(hint)

    assert whole is not None
    assert part is not None
    assert whole.shape == (4, 1, 4, 4)
    assert whole[0, 0, 0, 0] == 8.0
    torch.testing.assert_close(whole[0, 0, 1:], torch.full((3, 4), 0.5 / (15 / 16)))
    assert whole[1, 0, 0, 0].item() == pytest.approx(0.5 * 0.5 / (1 / 32) + 0.5 * 0.5 / (31 / 32))
    assert (whole[2:] == 1).all()  # nothing to balance
    torch.testing.assert_close(whole.mean(dim=(1, 2, 3)), torch.ones(4))
    torch.testing.assert_close(part, 1 + 0.25 * (whole - 1))
    assert ObjectiveSettings().pixel_weights(hint) is None


def test_the_balance_of_pixels_enters_every_term(networks: SiameseNetworks, batch: TrainingBatch) -> None:
    settings = ObjectiveSettings(lesion_balance=1.0)
    hint = torch.zeros_like(batch.mask_hint)
    hint[:, :, :8, :8] = 1
    batch = replace(batch, mask_hint=hint)
    weights = settings.pixel_weights(hint)
    terms, parts, _ = run(networks, batch, settings)

    expected = per_sample_error(terms.noise_mask, batch.noise, weights)
    assert not torch.allclose(expected, per_sample_error(terms.noise_mask, batch.noise))
    torch.testing.assert_close(terms.mask, expected)
    torch.testing.assert_close(terms.image, per_sample_error(terms.noise_image, batch.noise, weights))
    torch.testing.assert_close(
        terms.consistency, per_sample_error(terms.noise_mask, terms.noise_image, weights)
    )
    plain, _, _ = run(networks, batch)
    qualifying = batch.timesteps <= 200
    assert not torch.allclose(terms.augmentation[qualifying], plain.augmentation[qualifying])
    assert sum(parts) == pytest.approx(terms.loss.item(), rel=1e-5)


@pytest.mark.parametrize("step", [0, LATE])
def test_checkpointing_changes_no_loss_and_no_gradient(step: int, batch: TrainingBatch) -> None:
    kept, repeated = small_networks(DENSE), small_networks(DENSE)
    repeated.checkpoint_gradients()
    terms, _, _ = run(kept, batch, step=step)
    expected = gradients(kept)
    again, _, calls = run(repeated, batch, step=step)

    torch.testing.assert_close(vars(again), vars(terms))
    torch.testing.assert_close(gradients(repeated), expected)
    # hint features once as they are, and once pair by pair with their graph
    assert [count for name, count in calls if name == "hint"].count(1) == (8 if step else 4)


def one_shot_loss(
    networks: SiameseNetworks, batch: TrainingBatch, settings: ObjectiveSettings, step: int
) -> Tensor:
    """The paper's loss as one graph: copied decoder, whole batch in every pass, gates as factors.

    Of networks that predict v, written in z_0: v = a eps - s z_0, z_0 = a z_t - s v with a^2 = abar_t.
    """
    signal = alphas_cumprod().to(batch.latent.dtype)[batch.timesteps].view(-1, 1, 1, 1).sqrt()
    sigma = (1 - signal**2).sqrt()
    predicts_v = networks.prediction == "v_prediction"
    target = signal * batch.noise - sigma * batch.latent if predicts_v else batch.noise
    control, decoder, t, context = networks.control, networks.decoder, batch.timesteps, batch.context
    z_t = add_noise(batch.latent, batch.noise, t)
    encoded = networks.encode(z_t, t, context)
    c_m = control.control(z_t, t, context, control.hint_features(batch.mask_hint))
    c_i = control.control(z_t, t, context, control.hint_features(batch.image_hint))
    c_mix = [settings.mask_weight * m.detach() + step / TOTAL * i for m, i in zip(c_m, c_i, strict=True)]
    copied_decoder = copy.deepcopy(decoder).requires_grad_(False)
    eps_m, eps_mix = decoder(encoded, context, c_m), copied_decoder(encoded, context, c_mix)
    loss = per_sample_error(eps_m, target) + per_sample_error(eps_mix, target)
    loss = loss + settings.consistency_weight * per_sample_error(eps_m, eps_mix.detach())
    if step > TOTAL / 3:
        z_new = renoise(z_t, batch.noise, eps_mix.detach(), t)
        if predicts_v:
            clean = signal * z_t - sigma * eps_mix.detach()
            z_new, target = signal * clean + sigma * batch.noise, signal * batch.noise - sigma * clean
        c_new = control.control(z_new, t, context, control.hint_features(batch.mask_hint))
        error = per_sample_error(decoder(networks.encode(z_new, t, context), context, c_new), target)
        loss = loss + settings.augmentation_weight * (t <= 200) * error
    return loss.mean()


@pytest.mark.parametrize(
    ("architecture", "step", "settings"),
    [
        (DENSE, LATE, ObjectiveSettings(mask_weight=0.7, consistency_weight=0.5, augmentation_weight=2.0)),
        (replace(DENSE, prediction="v_prediction"), LATE, ObjectiveSettings()),
        (SPARSE, EARLY, ObjectiveSettings()),
        (SPARSE, LATE, ObjectiveSettings(consistency_weight=0.0)),
        (SPARSE, LATE, ObjectiveSettings(augmentation_weight=0.0)),
    ],
    ids=["all terms", "prediction of v", "before augmentation", "no consistency", "no augmentation"],
)
def test_loss_and_gradients_equal_those_of_one_large_graph(
    architecture: Architecture, step: int, settings: ObjectiveSettings
) -> None:
    networks = small_networks(architecture, torch.float64)
    batch = make_batch((200, 900), side=4, dtype=torch.float64)
    terms, _, _ = run(networks, batch, settings, step)
    actual = gradients(networks)
    for parameter in networks.trained_parameters():
        parameter.grad = None
    expected_loss = one_shot_loss(networks, batch, settings, step)
    expected_loss.backward()
    expected = gradients(networks)

    assert terms.loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    assert actual.keys() == expected.keys()
    assert any("controlnet_cond_embedding" in name and grad.any() for name, grad in actual.items())
    largest = max(float(grad.norm()) for grad in expected.values())
    for name, grad in expected.items():
        difference = float((actual[name] - grad).norm())
        assert difference <= 1e-5 * float(grad.norm()) + 1e-8 * largest, name


def test_several_samples_of_a_pair_give_what_as_many_pairs_would() -> None:
    networks = small_networks(DENSE, torch.float64)
    several = make_batch((10, 900, 200, 400), dtype=torch.float64)
    several = replace(several, mask_hint=several.mask_hint[:2], image_hint=several.image_hint[:2])
    repeated = {
        name: getattr(several, name).repeat_interleave(2, dim=0) for name in ("mask_hint", "image_hint")
    }

    terms, _, calls = run(networks, several)
    actual = gradients(networks)
    expected_terms, _, _ = run(networks, replace(several, **repeated))
    expected = gradients(networks)

    assert [count for name, count in calls if name == "hint"] == [2, 2]
    torch.testing.assert_close(vars(terms), vars(expected_terms))
    torch.testing.assert_close(actual, expected)


def test_the_parts_add_up_to_the_loss_and_the_loss_to_its_terms(
    networks: SiameseNetworks, batch: TrainingBatch
) -> None:
    settings = ObjectiveSettings(consistency_weight=0.5, augmentation_weight=2.0)
    terms, parts, _ = run(networks, batch, settings)

    assert terms.loss.item() == pytest.approx(sum(parts), rel=1e-6)
    means = terms.means()
    weighted = means["mask"] + means["image"] + 0.5 * means["consistency"] + 2.0 * means["augmentation"]
    assert means["loss"].item() == pytest.approx(weighted.item(), rel=1e-6)
    assert not any(value.requires_grad for value in vars(terms).values())


def test_each_branch_is_back_propagated_before_the_next_and_nothing_runs_twice(
    networks: SiameseNetworks, batch: TrainingBatch
) -> None:
    _, _, calls = run(networks, batch)

    image = ["hint", "control", "shadow", "backward"]
    mask, augmentation = ["decoder", "backward"], ["encoder", "control", "decoder", "backward"]
    assert names_of(calls) == ["encoder", "hint", "control", *image, *mask, *augmentation]


def test_augmentation_runs_on_the_qualifying_samples_only(
    networks: SiameseNetworks, batch: TrainingBatch
) -> None:
    terms, _, calls = run(networks, batch)

    assert [count for name, count in calls if name == "encoder"] == [4, 2]
    assert [count for name, count in calls if name == "control"] == [4, 4, 2]
    assert [count for name, count in calls if name == "hint"] == [4, 4]
    assert (terms.augmentation > 0).tolist() == [True, True, False, False]


def test_the_mean_of_the_augmentation_divides_by_the_whole_batch(
    networks: SiameseNetworks, batch: TrainingBatch
) -> None:
    terms, parts, _ = run(networks, batch, ObjectiveSettings(augmentation_weight=3.0))

    assert parts[2] == pytest.approx(3.0 * terms.augmentation.sum().item() / len(TIMESTEPS), rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "step", "encoded"),
    [
        (ObjectiveSettings(), 2, [4]),
        (ObjectiveSettings(), 3, [4, 2]),
        (ObjectiveSettings(augmentation_start=1.0), TOTAL, [4]),
        (ObjectiveSettings(augmentation_start=0.0), 1, [4, 2]),
        (ObjectiveSettings(augmentation_max_timestep=9), LATE, [4]),
        (ObjectiveSettings(augmentation_max_timestep=201), LATE, [4, 3]),
        (ObjectiveSettings(augmentation_weight=0.0), LATE, [4]),
    ],
)
def test_the_gates_decide_whether_and_on_what_augmentation_runs(
    networks: SiameseNetworks,
    batch: TrainingBatch,
    settings: ObjectiveSettings,
    step: int,
    encoded: list[int],
) -> None:
    terms, _, calls = run(networks, batch, settings, step)

    assert [count for name, count in calls if name == "encoder"] == encoded
    assert bool(terms.augmentation.any()) == (len(encoded) == 2)


def test_augmentation_starts_right_after_a_third_of_any_number_of_steps() -> None:
    settings = ObjectiveSettings()

    assert not any(settings.augments(third, 3 * third) for third in range(1, 3000))
    assert all(settings.augments(third + 1, 3 * third) for third in range(1, 3000))


def test_consistency_of_weight_zero_is_still_reported(
    networks: SiameseNetworks, batch: TrainingBatch
) -> None:
    without, _, _ = run(networks, batch, ObjectiveSettings(consistency_weight=0.0), EARLY)
    default, _, _ = run(networks, batch, ObjectiveSettings(), EARLY)

    assert torch.equal(without.consistency, default.consistency)
    assert without.consistency.all()
    assert without.loss.item() == pytest.approx((without.mask + without.image).mean().item())


def test_the_image_weighs_k_of_n_in_the_mix(networks: SiameseNetworks, batch: TrainingBatch) -> None:
    terms, _, _ = run(networks, batch, ObjectiveSettings(mask_weight=0.25), EARLY)
    z_t = add_noise(batch.latent, batch.noise, batch.timesteps)
    with torch.no_grad():
        c_m, c_i = (
            networks.control.control(
                z_t, batch.timesteps, batch.context, networks.control.hint_features(hint)
            )
            for hint in (batch.mask_hint, batch.image_hint)
        )
        mix = [0.25 * m + EARLY / TOTAL * i for m, i in zip(c_m, c_i, strict=True)]
        encoded = networks.encode(z_t, batch.timesteps, batch.context)
        expected = networks.decoder(encoded, batch.context, mix)

    torch.testing.assert_close(terms.noise_image, expected)
    assert ObjectiveSettings().image_weight(3, 12) == 0.25


def test_the_first_step_knows_no_image(networks: SiameseNetworks, batch: TrainingBatch) -> None:
    terms, parts, calls = run(networks, batch, step=0)

    assert names_of(calls) == ["encoder", "hint", "control", "shadow", "decoder", "backward"]
    assert torch.equal(terms.image, terms.mask)
    assert not terms.consistency.any()
    assert parts == pytest.approx([terms.mask.mean().item()])
    assert terms.loss.item() == pytest.approx(2 * parts[0])  # L_i counts in the report, without gradient


def test_samples_do_not_influence_one_another() -> None:
    # In float64: sums over other batch sizes round differently, and random weights magnify that.
    networks = small_networks(DENSE, torch.float64)
    batch = make_batch(TIMESTEPS, dtype=torch.float64)
    fewer = replace(batch, **{name: value[:2] for name, value in vars(batch).items() if value is not None})
    together, _, _ = run(networks, batch)
    apart, _, _ = run(networks, fewer)

    for name in ("mask", "image", "consistency", "augmentation"):
        torch.testing.assert_close(getattr(apart, name), getattr(together, name)[:2])
