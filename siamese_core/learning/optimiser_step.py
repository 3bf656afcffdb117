"""One optimiser step of Siamese training, and what it changes: weights, their optimiser, their average."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .. import advice
from ..errors import UserError
from ..method.objective import Networks, ObjectiveSettings, siamese_step
from ..seeds import stream_seed
from .averaged_weights import AveragedWeights
from .checkpoints import TrainedState
from .engine import Engine
from .float32_steps import Float32Steps
from .settings import BatchSettings, OptimiserSettings, Precision
from .training_set import TrainingSet

MOST_SKIPPED = 8
"""Steps in a row that may lack finite values; fp16's scale finds its place in fewer."""


class Diverged(UserError):
    """Losses or gradients were not finite for too many steps in a row, up to ``step``."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class TrainedNetworks(Networks, Protocol):
    """What training needs of the networks besides the objective: which of their weights it trains."""

    def trained_parameters(self) -> list[nn.Parameter]:
        """Control network (with hint block) and decoder, in an order that never changes."""
        ...

    def hint_parameters(self) -> list[nn.Parameter]:
        """Those of them that are the hint block's."""
        ...


@dataclass
class Trainer:
    """What a training run changes: networks and optimiser, on the engine's device."""

    networks: TrainedNetworks
    optimizer: Any
    engine: Engine
    precision: Precision = "no"
    average: AveragedWeights | None = None
    scaler: torch.amp.GradScaler | None = None
    skipped_in_a_row: int = 0

    @classmethod
    def create(
        cls,
        networks: TrainedNetworks,
        settings: OptimiserSettings,
        engine: Engine,
        precision: Precision = "no",
    ) -> Trainer:
        """A trainer of ``networks``, which lie on the engine's device and are not moved any more.

        Raises UserError when an optimiser's package is missing.
        """
        average = None
        if settings.ema_decay:
            average = AveragedWeights(networks.trained_parameters(), settings.ema_decay)
        scaler = torch.amp.GradScaler(engine.device.type) if precision == "fp16" else None
        optimizer = _optimizer(networks, settings)
        return cls(networks, optimizer, engine, precision, average, scaler)

    @property
    def state(self) -> TrainedState:
        """What a checkpoint holds."""
        networks = (self.networks.control, self.networks.decoder)
        return TrainedState(networks, [self.optimizer], self.average, self.scaler)

    def use_rates(self, settings: OptimiserSettings) -> None:
        """Make rates and weight decay those of ``settings``: a checkpoint brings back its own."""
        for group, new in zip(
            self.optimizer.param_groups, _parameter_groups(self.networks, settings), strict=True
        ):
            group["lr"], group["initial_lr"] = new["lr"], new["initial_lr"]
            group["weight_decay"] = settings.weight_decay

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Within the block the trained weights are their moving average, where one is kept."""
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of forward passes."""
        if self.precision == "no":
            return contextlib.nullcontext()
        # With checkpointing, casts of weights are not kept: they would take the memory that it saves.
        keep_casts = not self.networks.checkpointing
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.engine.device.type, dtype, cache_enabled=keep_casts)

    def step_function(
        self,
        data: TrainingSet,
        objective: ObjectiveSettings,
        batches: BatchSettings,
        settings: OptimiserSettings,
        total_steps: int,
        seed: int,
        micro_batches: int = 1,
    ) -> Callable[[int], dict[str, Tensor]]:
        """The optimiser step as a function of k, for :func:`run_steps`; returns loss and terms.

        A step whose loss or gradients are not finite changes nothing, and says ``skipped`` 1; too many in a
        row raise Diverged. A step that an exception ends has changed nothing either.
        """
        engine = self.engine

        def step(k: int) -> dict[str, Tensor]:
            self.optimizer.zero_grad(set_to_none=True)  # of a step that an exception ended
            batch = data.batch(seed, k, batches, engine.device, engine.process, engine.processes)
            means: dict[str, Tensor] = {}
            for part in batch.parts(micro_batches):
                share = len(part.timesteps) / len(batch.timesteps)

                def backward(loss: Tensor, share: float = share) -> None:
                    self._scaled(share * loss).backward()

                with self.autocast():
                    terms = siamese_step(self.networks, part, objective, k, total_steps, backward)
                for name, value in terms.means().items():
                    means[name] = means.get(name, 0.0) + share * value
            if isinstance(self.optimizer, Float32Steps):
                self.optimizer.seed = stream_seed(seed, "rounding", k)
            skipped = self._update(k, settings.rate_factor(k, total_steps), means["loss"])
            return {**means, "skipped": torch.tensor(float(skipped), device=engine.device)}

        return step

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss if self.scaler is None else self.scaler.scale(loss)

    def _update(self, step: int, rate_factor: float, loss: Tensor) -> bool:
        """Average the gradients over all processes and step the optimiser; whether the step was left out."""
        gradients = [
            parameter.grad for parameter in self.networks.trained_parameters() if parameter.grad is not None
        ]
        loss = loss.clone()
        self.engine.average([*gradients, loss])
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate_factor
        # With fp16 the loss is scaled so far that gradients overflow now and then: the scaler sees to it.
        checked = [loss] if self.scaler is not None else [*gradients, loss]
        norms = torch.stack([torch.linalg.vector_norm(tensor, dtype=torch.float32) for tensor in checked])
        # The step's one wait for its device: to leave a step out without asking takes an optimiser and an
        # average that can be told so on the device, which only some optimisers can.
        skipped = not bool(norms.isfinite().all())
        if not skipped:
            skipped = not self._step_optimizer()
        self.optimizer.zero_grad(set_to_none=True)
        if not skipped and self.average is not None:
            self.average.update()
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        if self.skipped_in_a_row >= MOST_SKIPPED:
            raise Diverged(
                step,
                f"loss or gradients were not finite in {MOST_SKIPPED} steps in a row (loss {float(loss):g}); "
                f"the training has diverged. {advice.DIVERGED}",
            )
        return skipped

    def _step_optimizer(self) -> bool:
        """Step the optimiser; whether the gradients, where they are scaled, were finite."""
        if self.scaler is None:
            self.optimizer.step()
            return True
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.scaler.get_scale() >= before  # it backs off after an overflow, and only then


def _parameter_groups(networks: TrainedNetworks, settings: OptimiserSettings) -> list[dict[str, Any]]:
    """AdamW's groups: the trained weights but for the hint block's, and those."""
    hint = networks.hint_parameters()
    known = {id(parameter) for parameter in hint}
    others = [parameter for parameter in networks.trained_parameters() if id(parameter) not in known]
    hint_rate = settings.learning_rate if settings.hint_learning_rate is None else settings.hint_learning_rate
    return [
        {"params": others, "lr": settings.learning_rate, "initial_lr": settings.learning_rate},
        {"params": hint, "lr": hint_rate, "initial_lr": hint_rate},
    ]


def _optimizer(networks: TrainedNetworks, settings: OptimiserSettings) -> Any:
    make = partial(_adamw, settings)
    groups = _parameter_groups(networks, settings)
    plain = settings.optimiser == "adamw" and settings.weight_precision == "fp32"
    return make(groups) if plain else Float32Steps(groups, make)


def _adamw(settings: OptimiserSettings, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UserError(advice.EIGHT_BITS) from error
    return AdamW8bit(groups, weight_decay=settings.weight_decay)
