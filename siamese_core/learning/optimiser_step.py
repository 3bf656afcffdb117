"""One optimiser step of Siamese training and the state it changes: weights, optimiser, moving average."""

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
"""Consecutive non-finite steps that count as divergence; fp16 loss scaling settles in fewer."""


class Diverged(UserError):
    """Losses or gradients were not finite for too many consecutive steps, the last of them ``step``."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class TrainedNetworks(Networks, Protocol):
    """The networks of the objective, plus access to the weights that training changes."""

    def trained_parameters(self) -> list[nn.Parameter]:
        """Parameters of the control network (with hint block) and the decoder, always in the same order."""
        ...

    def hint_parameters(self) -> list[nn.Parameter]:
        """The subset of :meth:`trained_parameters` that belongs to the hint block."""
        ...


@dataclass
class Trainer:
    """Networks, optimiser and their companions (average, loss scaler), on the engine's device."""

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
        """A trainer for ``networks``, which must be on the engine's device already and stay there.

        Raises UserError when the package of the chosen optimiser is missing.
        """
        if settings.decoder_learning_rate == 0:
            networks.decoder.requires_grad_(False)  # saves its gradients, too
        average = None
        if settings.ema_decay:
            trained = [one for one in networks.trained_parameters() if one.requires_grad]
            average = AveragedWeights(trained, settings.ema_decay)
        scaler = torch.amp.GradScaler(engine.device.type) if precision == "fp16" else None
        optimizer = _optimizer(networks, settings)
        return cls(networks, optimizer, engine, precision, average, scaler)

    @property
    def state(self) -> TrainedState:
        """The state that checkpoints store."""
        networks = (self.networks.control, self.networks.decoder)
        return TrainedState(networks, [self.optimizer], self.average, self.scaler)

    def use_rates(self, settings: OptimiserSettings) -> None:
        """Set learning rates and weight decay from ``settings``, because a checkpoint restores old ones."""
        for group, new in zip(
            self.optimizer.param_groups, _parameter_groups(self.networks, settings), strict=True
        ):
            group["lr"], group["initial_lr"] = new["lr"], new["initial_lr"]
            group["weight_decay"] = settings.weight_decay

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Within the block the trained weights hold their moving average, if one is kept."""
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    def autocast(self) -> AbstractContextManager[Any]:
        """The autocast context of forward passes."""
        if self.precision == "no":
            return contextlib.nullcontext()
        # With gradient checkpointing, cached casts of the weights would use up the memory that it saves.
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
        """One optimiser step as a function of k, for :func:`run_steps`; it returns the loss and its terms.

        A step with a non-finite loss or gradient changes nothing and returns ``skipped`` 1;
        :data:`MOST_SKIPPED` of them in a row raise Diverged. A step ended by an exception changes nothing.
        """
        engine = self.engine

        def step(k: int) -> dict[str, Tensor]:
            self.optimizer.zero_grad(set_to_none=True)  # left over from a step that an exception ended
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
        """Average the gradients over all processes and step the optimiser; return whether it was skipped."""
        gradients = [
            parameter.grad for parameter in self.networks.trained_parameters() if parameter.grad is not None
        ]
        loss = loss.clone()
        self.engine.average([*gradients, loss])
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate_factor
        # With fp16 the scaled gradients overflow now and then, which the scaler detects itself.
        checked = [loss] if self.scaler is not None else [*gradients, loss]
        norms = torch.stack([torch.linalg.vector_norm(tensor, dtype=torch.float32) for tensor in checked])
        # The only device synchronisation of a step. Avoiding it would take an optimiser and an average that
        # can skip a step on the device, which only some optimisers can.
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
        """Step the optimiser; return False when the loss scaler found an overflow and skipped the step."""
        if self.scaler is None:
            self.optimizer.step()
            return True
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.scaler.get_scale() >= before  # the scale shrinks only after an overflow


def _parameter_groups(networks: TrainedNetworks, settings: OptimiserSettings) -> list[dict[str, Any]]:
    """AdamW's parameter groups, whose places checkpoints rely on: the second is the hint block's.

    The third is the decoder's, if its rate differs; a decoder that is not trained is in no group.
    """
    hint, decoder = networks.hint_parameters(), list(networks.decoder.parameters())
    hint_rate, decoder_rate = settings.hint_learning_rate, settings.decoder_learning_rate
    apart = {id(parameter) for parameter in (hint if decoder_rate is None else [*hint, *decoder])}
    others = [parameter for parameter in networks.trained_parameters() if id(parameter) not in apart]
    groups = [
        (others, settings.learning_rate),
        (hint, settings.learning_rate if hint_rate is None else hint_rate),
    ]
    if decoder_rate:
        groups.append((decoder, decoder_rate))
    return [{"params": parameters, "lr": rate, "initial_lr": rate} for parameters, rate in groups]


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
