"""Siamese training: settings, one optimiser step, and the finished model file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from .architecture import HintBlock
from .base import Base, base_file
from .checkpoint import FileKind, ModelFile
from .layouts import decoder_keys, to_ldm
from .loop import cosine_rate
from .networks import DHIControlNet, SiameseNetworks
from .objective import ObjectiveSettings, siamese_step
from .settings import option
from .training_set import BatchSettings, TrainingSet


@dataclass(frozen=True)
class OptimiserSettings:
    """AdamW; the defaults are the paper's."""

    learning_rate: float = option(1e-5, "AdamW's rate, or its peak when it decays")
    hint_learning_rate: float | None = option(
        None, "rate of the hint block, when another; its wide convolutions die at rates that suit small bases"
    )
    rate_decay: Literal["none", "cosine"] = option(
        "none", "down to 0 along a half cosine; the paper has none"
    )
    warmup: int = option(0, "steps in which the rates rise to their value; the paper has none")
    weight_decay: float = option(1e-2, "AdamW's weight decay")

    def rate_factor(self, step: int, total_steps: int) -> float:
        """What the rates are multiplied by in training step k of N, in (0, 1]."""
        if self.rate_decay == "cosine":
            return cosine_rate(1.0, step, total_steps, self.warmup)
        return min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0


@dataclass
class Trainer:
    """What a training run changes: networks and optimiser, on the accelerator's device."""

    base: Base
    networks: SiameseNetworks
    optimizer: Any
    accelerator: Accelerator

    @classmethod
    def create(
        cls,
        base: Base,
        hint_block: HintBlock,
        settings: OptimiserSettings,
        seed: int,
        accelerator: Accelerator,
    ) -> Trainer:
        """Initialise the control network from ``base``'s UNet and register everything for checkpoints."""
        base.architecture = replace(base.architecture, hint_block=hint_block)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            control = DHIControlNet.initialised_from(base.unet, base.architecture)
        for module in (base.unet, base.vae, base.text_encoder, control):
            module.to(accelerator.device, memory_format=torch.channels_last)
        networks = SiameseNetworks.assemble(base.unet, control)
        optimizer = torch.optim.AdamW(
            _parameter_groups(networks, settings), weight_decay=settings.weight_decay, fused=True
        )
        # Registered for checkpoints, not wrapped: the branches call the networks' own methods.
        accelerator.prepare_model(networks.control, evaluation_mode=True)
        accelerator.prepare_model(networks.decoder, evaluation_mode=True)
        return cls(base, networks, accelerator.prepare(optimizer), accelerator)

    def step_function(
        self,
        data: TrainingSet,
        objective: ObjectiveSettings,
        batches: BatchSettings,
        settings: OptimiserSettings,
        total_steps: int,
        seed: int,
    ) -> Callable[[int], dict[str, Tensor]]:
        """The optimiser step as a function of k, for ``loop.run_steps``; returns loss and terms."""
        device = self.accelerator.device

        def step(k: int) -> dict[str, Tensor]:
            batch = data.batch(seed, k, batches, device)
            with self.accelerator.autocast():
                terms = siamese_step(
                    self.networks, batch, objective, k, total_steps, self.accelerator.backward
                )
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * settings.rate_factor(k, total_steps)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            return terms.means()

        return step

    def finished_model(self, kind: FileKind, training: dict[str, Any], run_id: str) -> ModelFile:
        """The trained weights as a model file: ``full`` or ``adapter`` (control and decoder only)."""
        architecture = self.base.architecture
        whole = base_file(self.base, training, run_id)
        control = to_ldm("control", self.networks.control.state_dict(), architecture)
        if kind == "full":
            return replace(whole, kind="full", parts={**whole.parts, "control": control})
        unet = whole.parts["unet"]
        decoder = {key: unet[key] for key in decoder_keys(unet)}
        return replace(whole, kind="adapter", parts={"unet": decoder, "control": control})


def _parameter_groups(networks: SiameseNetworks, settings: OptimiserSettings) -> list[dict[str, Any]]:
    """AdamW's groups: the trained weights but for the hint block's, and those."""
    hint = list(networks.control.controlnet_cond_embedding.parameters())
    known = {id(parameter) for parameter in hint}
    others = [parameter for parameter in networks.trained_parameters() if id(parameter) not in known]
    hint_rate = settings.learning_rate if settings.hint_learning_rate is None else settings.hint_learning_rate
    return [
        {"params": others, "lr": settings.learning_rate, "initial_lr": settings.learning_rate},
        {"params": hint, "lr": hint_rate, "initial_lr": hint_rate},
    ]
