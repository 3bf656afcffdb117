"""The optimiser of a training run: which weights learn at which rate, and when."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from siamese_core.diffusers_backend.siamese_training import frozen_on_device, start_networks
from siamese_core.errors import UserError
from siamese_core.learning.engine import SingleProcess
from siamese_core.learning.optimiser_step import MOST_SKIPPED, Diverged, Trainer
from siamese_core.learning.settings import BatchSettings, OptimiserSettings
from siamese_core.learning.training_set import TrainingSet
from siamese_core.method.objective import ObjectiveSettings
from tests.support.learning.gradients_worker import (
    TOTAL_STEPS,
    GradientRecorder,
    random_trainer,
    training_data,
)
from tests.support.learning.training_sets import small_set
from tests.support.small_models import small_base

Step = Callable[[int], dict[str, Tensor]]
AFTER_GATE = TOTAL_STEPS // 2


def trainer(settings: OptimiserSettings) -> Trainer:
    engine = SingleProcess()
    networks = start_networks(copy.deepcopy(small_base()), "dense", 1, engine.device)
    return Trainer.create(networks, settings, engine)


def test_all_trained_weights_learn_at_the_papers_rate() -> None:
    made = trainer(OptimiserSettings())
    learning = {id(weight) for group in made.optimizer.param_groups for weight in group["params"]}

    assert learning == {id(weight) for weight in made.networks.trained_parameters()}
    assert {group["lr"] for group in made.optimizer.param_groups} == {1e-5}


def test_the_hint_block_can_have_a_rate_of_its_own() -> None:
    made = trainer(OptimiserSettings(learning_rate=1e-3, hint_learning_rate=1e-4))
    hint = {id(weight) for weight in made.networks.control.controlnet_cond_embedding.parameters()}

    assert hint
    for group in made.optimizer.param_groups:
        for weight in group["params"]:
            assert group["lr"] == (1e-4 if id(weight) in hint else 1e-3)


def test_the_decoder_can_have_a_rate_of_its_own() -> None:
    settings = OptimiserSettings(learning_rate=1e-3, hint_learning_rate=1e-4, decoder_learning_rate=1e-5)
    made = trainer(settings)
    decoder = {id(weight) for weight in made.networks.decoder.parameters()}

    rates = {id(weight): group["lr"] for group in made.optimizer.param_groups for weight in group["params"]}
    assert rates.keys() == {id(weight) for weight in made.networks.trained_parameters()}
    assert {rates[weight] for weight in decoder} == {1e-5}
    assert {rate for weight, rate in rates.items() if weight not in decoder} == {1e-3, 1e-4}


@pytest.mark.parametrize("averaged", [0.0, 0.9])
def test_a_decoder_with_a_rate_of_zero_stays_as_it_is_and_the_control_learns(averaged: float) -> None:
    settings = OptimiserSettings(learning_rate=1e-3, decoder_learning_rate=0.0, ema_decay=averaged)
    made = trainer(settings)
    decoder = [weight.detach().clone() for weight in made.networks.decoder.parameters()]
    control = [weight.detach().clone() for weight in made.networks.control.parameters()]
    step = step_of(made, small_data(), settings)
    for k in range(2):
        step(k)

    assert all(map(torch.equal, made.networks.decoder.parameters(), decoder))
    assert not all(map(torch.equal, made.networks.control.parameters(), control))
    if made.average is not None:
        assert len(made.average.averages) == len(control)


def test_a_rate_of_zero_leaves_its_weights_as_they_are() -> None:
    settings = OptimiserSettings(learning_rate=1e-3, hint_learning_rate=0.0)
    made = trainer(settings)
    hint = made.networks.control.controlnet_cond_embedding.state_dict()
    before, all_before = {name: weight.clone() for name, weight in hint.items()}, weights_of(made)
    step_of(made, small_data(), settings)(0)

    assert all(torch.equal(weight, before[name]) for name, weight in hint.items())
    assert not all(torch.equal(*both) for both in zip(weights_of(made), all_before, strict=True))


def test_rates_rise_in_the_warmup_and_then_stay_or_fall() -> None:
    constant = OptimiserSettings(warmup=4)
    falling = OptimiserSettings(warmup=4, rate_decay="cosine")

    for settings in (constant, falling):
        assert [settings.rate_factor(k, 100) for k in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert constant.rate_factor(99, 100) == 1.0
    assert falling.rate_factor(52, 100) == pytest.approx(0.5)
    assert OptimiserSettings().rate_factor(0, 100) == 1.0


def small_data() -> TrainingSet:
    """Pairs of 64 px that the small base can be trained on."""
    data = small_set(count=5, side=64)
    return replace(data, contexts=torch.linspace(-1, 1, 3 * 77 * 32).view(3, 77, 32))


def step_of(
    made: Trainer, data: TrainingSet, settings: OptimiserSettings, batch_size: int = 2, micro_batches: int = 1
) -> Step:
    batches = BatchSettings(batch_size=batch_size)
    return made.step_function(data, ObjectiveSettings(), batches, settings, TOTAL_STEPS, 42, micro_batches)


def weights_of(made: Trainer) -> list[Tensor]:
    return [weight.detach().clone() for weight in made.networks.trained_parameters()]


def test_a_batch_in_parts_has_the_gradients_and_losses_of_the_whole() -> None:
    made, data = random_trainer(), training_data()
    recorder = made.optimizer = GradientRecorder(made)

    def gradients(micro_batches: int) -> tuple[Tensor, dict[str, Tensor]]:
        step = step_of(made, data, OptimiserSettings(), batch_size=3, micro_batches=micro_batches)
        terms = step(AFTER_GATE)
        return torch.cat([gradient.flatten() for gradient in recorder.gradients]), terms

    whole, terms = gradients(1)
    parts, terms_of_parts = gradients(2)
    assert (parts - whole).norm() <= 1e-5 * whole.norm()
    torch.testing.assert_close(terms_of_parts, terms, rtol=1e-5, atol=1e-6)


def test_checkpointing_loses_no_gradient_in_mixed_precision() -> None:
    made = random_trainer("bf16")
    made.networks.checkpoint_gradients()
    recorder = made.optimizer = GradientRecorder(made)
    hint_block = made.networks.control.controlnet_cond_embedding
    places = {id(weight): place for place, weight in enumerate(made.networks.trained_parameters())}
    step_of(made, small_data(), OptimiserSettings())(AFTER_GATE)

    assert len(recorder.gradients) == len(places)
    assert all(recorder.gradients[places[id(weight)]].any() for weight in hint_block.parameters())


def test_a_step_without_finite_values_changes_nothing_and_is_counted() -> None:
    settings, data = OptimiserSettings(learning_rate=1e-3), small_data()
    made = trainer(settings)
    before = weights_of(made)
    spoilt = replace(data, moments=torch.full_like(data.moments, torch.nan))

    assert step_of(made, spoilt, settings)(0)["skipped"] == 1
    assert all(torch.equal(*both) for both in zip(weights_of(made), before, strict=True))
    assert not made.optimizer.state
    assert step_of(made, data, settings)(1)["skipped"] == 0
    assert not all(torch.equal(*both) for both in zip(weights_of(made), before, strict=True))
    assert made.skipped_in_a_row == 0


def test_gradients_that_overflow_are_skipped_too() -> None:
    settings, data = OptimiserSettings(), small_data()
    made = trainer(settings)
    before = weights_of(made)
    step = step_of(made, data, settings)
    first = made.networks.control.conv_in.weight
    first.register_hook(lambda gradient: gradient * torch.inf)

    terms = step(0)
    assert torch.isfinite(terms["loss"])
    assert terms["skipped"] == 1
    assert all(torch.equal(*both) for both in zip(weights_of(made), before, strict=True))


def test_a_run_that_stays_without_finite_values_is_stopped() -> None:
    settings, data = OptimiserSettings(), small_data()
    step = step_of(trainer(settings), replace(data, moments=data.moments * torch.nan), settings)

    for k in range(MOST_SKIPPED - 1):
        step(k)
    with pytest.raises(Diverged, match=r"has diverged\. Lower --learning-rate") as stop:
        step(MOST_SKIPPED - 1)
    assert stop.value.step == MOST_SKIPPED - 1


def test_the_moving_average_follows_the_weights_and_gives_them_back() -> None:
    settings = OptimiserSettings(learning_rate=1e-3, ema_decay=0.5)
    made = trainer(settings)
    step, average = step_of(made, small_data(), settings), weights_of(made)
    for k in range(3):
        step(k)
        share = min(0.5, (1 + k) / (10 + k))  # the average of few steps forgets the start sooner
        average = [
            share * old + (1 - share) * new for old, new in zip(average, weights_of(made), strict=True)
        ]
    after = weights_of(made)

    with made.averaged_weights():
        torch.testing.assert_close(weights_of(made), average)
    assert all(torch.equal(*both) for both in zip(weights_of(made), after, strict=True))
    assert trainer(OptimiserSettings()).average is None


def test_the_eight_bit_optimiser_asks_for_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match="needs the package bitsandbytes: pip install"):
        trainer(OptimiserSettings(optimiser="adamw8bit"))


def test_frozen_networks_leave_the_device_after_their_work() -> None:
    base, moved = copy.deepcopy(small_base()), torch.device("meta")
    with pytest.raises(NotImplementedError, match="meta"), frozen_on_device(base, moved):  # nor come back
        assert base.vae.device == base.text_encoder.device == moved
