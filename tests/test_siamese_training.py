"""The optimiser of a training run: which weights learn at which rate, and when."""

from __future__ import annotations

import copy

import pytest
from accelerate import Accelerator
from small_models import small_base

from siamese_core.siamese_training import OptimiserSettings, Trainer


def trainer(settings: OptimiserSettings) -> Trainer:
    return Trainer.create(copy.deepcopy(small_base()), "dense", settings, 1, Accelerator(cpu=True))


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


def test_rates_rise_in_the_warmup_and_then_stay_or_fall() -> None:
    constant = OptimiserSettings(warmup=4)
    falling = OptimiserSettings(warmup=4, rate_decay="cosine")

    for settings in (constant, falling):
        assert [settings.rate_factor(k, 100) for k in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert constant.rate_factor(99, 100) == 1.0
    assert falling.rate_factor(52, 100) == pytest.approx(0.5)
    assert OptimiserSettings().rate_factor(0, 100) == 1.0
