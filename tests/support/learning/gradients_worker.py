"""The gradients that one process has after training steps; torchrun passes batch size, folder and steps."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from siamese_core.diffusers_backend.accelerate_engine import AccelerateEngine
from siamese_core.diffusers_backend.siamese_training import start_networks
from siamese_core.learning.optimiser_step import Trainer
from siamese_core.learning.settings import BatchSettings, OptimiserSettings, Precision
from siamese_core.learning.training_set import TrainingSet
from siamese_core.method.objective import ObjectiveSettings
from tests.support.learning.training_sets import small_set
from tests.support.small_models import small_base

TOTAL_STEPS = 60


class GradientRecorder:
    """Stands where the optimiser is, and keeps the gradients it is asked to apply."""

    def __init__(self, trainer: Trainer) -> None:
        self.param_groups = trainer.optimizer.param_groups
        self._weights = trainer.networks.trained_parameters()
        self.gradients: list[torch.Tensor] = []

    def step(self) -> None:
        self.gradients = [weight.grad.clone() for weight in self._weights if weight.grad is not None]

    def zero_grad(self, set_to_none: bool) -> None:
        for weight in self._weights:
            weight.grad = None


def training_data() -> TrainingSet:
    """Seven pairs, large enough that normalising the deepest features does not blow up rounding errors."""
    data = small_set(count=7, side=128)
    return TrainingSet(**{**vars(data), "contexts": torch.linspace(-1, 1, 3 * 77 * 32).view(3, 77, 32)})


def random_trainer(precision: Precision = "no") -> Trainer:
    """A trainer whose zero convolutions are not zero, so that every term and gradient counts."""
    engine = AccelerateEngine(Accelerator(cpu=True))
    networks = start_networks(copy.deepcopy(small_base()), "dense", 1, engine.device)
    trainer = Trainer.create(networks, OptimiserSettings(), engine, precision)
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in trainer.networks.control.parameters():
            if not weight.any():
                weight.normal_(std=0.05, generator=rng)
    return trainer


def write_gradients(batch_size: int, folder: Path, steps: Sequence[int]) -> None:
    """Write ``folder/<k>-<process>.pt``, one vector, for each training step k from the same weights."""
    trainer = random_trainer()
    recorder = trainer.optimizer = GradientRecorder(trainer)
    batches, settings = BatchSettings(batch_size=batch_size), OptimiserSettings()
    step = trainer.step_function(training_data(), ObjectiveSettings(), batches, settings, TOTAL_STEPS, 42)
    for k in steps:
        step(k)
        gradients = torch.cat([gradient.flatten() for gradient in recorder.gradients])
        torch.save(gradients, folder / f"{k}-{trainer.engine.process}.pt")


if __name__ == "__main__":
    write_gradients(int(sys.argv[1]), Path(sys.argv[2]), [int(k) for k in sys.argv[3:]])
