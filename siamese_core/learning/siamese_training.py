"""Siamese training: settings, one optimiser step, and the finished model file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs
from diffusers.training_utils import EMAModel
from torch import Tensor

from ..architecture import HintBlock
from ..diffusers_backend.base_model import Base, base_file
from ..diffusers_backend.networks import DHIControlNet, SiameseNetworks
from ..errors import UserError
from ..learning_rate import cosine_rate
from ..method.objective import ObjectiveSettings, siamese_step
from ..settings import COUNT, COUNT_OR_NONE, DECAY, RATE, WEIGHT, option
from ..weights.key_layouts import decoder_keys, to_ldm
from ..weights.model_file import FileKind, ModelFile
from .processes import average, refuse_sharded_weights
from .training_set import BatchSettings, TrainingSet

MOST_SKIPPED = 8
"""Steps in a row that may lack finite values; fp16's scale finds its place in fewer."""


@dataclass(frozen=True)
class OptimiserSettings:
    """AdamW; the defaults are the paper's."""

    learning_rate: float = option(1e-5, "AdamW's rate, or its peak when it decays", RATE)
    hint_learning_rate: float | None = option(
        None,
        "rate of the hint block, when another; its wide convolutions die at rates that suit small bases",
        RATE,
    )
    rate_decay: Literal["none", "cosine"] = option(
        "none", "down to 0 along a half cosine; the paper has none"
    )
    warmup: int = option(0, "steps in which the rates rise to their value; the paper has none", COUNT_OR_NONE)
    weight_decay: float = option(1e-2, "AdamW's weight decay", WEIGHT)
    optimiser: Literal["adamw", "adamw8bit"] = option(
        "adamw", "adamw8bit keeps its state in 8 bits (needs the extra 'eightbit')"
    )
    ema_decay: float = option(
        0.0,
        "keep, sample from and export a moving average of the weights (0.999 is usual); 0 leaves it out",
        DECAY,
    )

    def rate_factor(self, step: int, total_steps: int) -> float:
        """What the rates are multiplied by in training step k of N, in (0, 1]."""
        if self.rate_decay == "cosine":
            return cosine_rate(1.0, step, total_steps, self.warmup)
        return min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0


@dataclass(frozen=True)
class ExecutionSettings:
    """How a step is computed; the result is the same within rounding."""

    micro_batches: int = option(
        1, "parts in which a process works through its batch, one after the other: less memory", COUNT
    )
    gradient_checkpointing: bool = option(
        False, "repeat forward passes in the backward pass: a third slower, a third of the memory"
    )


class Diverged(UserError):
    """Losses or gradients were not finite for too many steps in a row, up to ``step``."""

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


@dataclass
class Trainer:
    """What a training run changes: networks and optimiser, on the accelerator's device.

    VAE and text encoder stay on the CPU but for the block of :meth:`frozen_on_device`.
    """

    base: Base
    networks: SiameseNetworks
    optimizer: Any
    accelerator: Accelerator
    ema: EMAModel | None = None
    skipped_in_a_row: int = 0

    @classmethod
    def create(
        cls,
        base: Base,
        hint_block: HintBlock,
        settings: OptimiserSettings,
        seed: int,
        accelerator: Accelerator,
        execution: ExecutionSettings = ExecutionSettings(),
    ) -> Trainer:
        """Initialise the control network from ``base``'s UNet and register everything for checkpoints.

        Raises ProcessesError under an accelerate configuration that shards weights.
        """
        refuse_sharded_weights(accelerator)
        base.architecture = replace(base.architecture, hint_block=hint_block)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            control = DHIControlNet.initialised_from(base.unet, base.architecture)
        device = accelerator.device
        for module in (base.unet, control):
            module.to(device, memory_format=_memory_format(device))
        networks = SiameseNetworks.assemble(base.unet, control, base.architecture.prediction)
        if execution.gradient_checkpointing:
            networks.checkpoint_gradients()
        optimizer = _optimizer(_parameter_groups(networks, settings), settings)
        # Registered for checkpoints, not wrapped, because the branches call the networks' own methods; nor
        # moved (from "cpu" to "cpu:0", for instance), because the shadow decoder would keep the old storage.
        for network in (networks.control, networks.decoder):
            accelerator.prepare_model(network, device_placement=False, evaluation_mode=True)
        ema = None
        if settings.ema_decay:
            ema = EMAModel(networks.trained_parameters(), decay=settings.ema_decay)
            accelerator.register_for_checkpointing(ema)
        return cls(base, networks, accelerator.prepare(optimizer), accelerator, ema)

    @contextmanager
    def frozen_on_device(self) -> Iterator[Base]:
        """The base with VAE and text encoder on the accelerator's device, from which they go again."""
        frozen: tuple[Any, ...] = (self.base.vae, self.base.text_encoder)
        device = self.accelerator.device
        for module in frozen:
            module.to(device, memory_format=_memory_format(device))
        try:
            yield self.base
        finally:
            for module in frozen:
                module.to("cpu")

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within the block the trained weights are their moving average, where one is kept."""
        if self.ema is None:
            yield
            return
        parameters = self.networks.trained_parameters()
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        try:
            yield
        finally:
            self.ema.restore(parameters)

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
        """The optimiser step as a function of k, for ``step_loop.run_steps``; returns loss and terms.

        A step whose loss or gradients are not finite changes nothing, and says ``skipped`` 1; too many in a
        row raise Diverged.
        """
        accelerator = self.accelerator
        # With checkpointing, casts of weights are not kept either: they would take the memory that it saves.
        casts = AutocastKwargs(cache_enabled=not self.networks.checkpointing)

        def step(k: int) -> dict[str, Tensor]:
            process, processes = accelerator.process_index, accelerator.num_processes
            batch = data.batch(seed, k, batches, accelerator.device, process, processes)
            means: dict[str, Tensor] = {}
            for part in batch.parts(micro_batches):
                share = len(part.timesteps) / len(batch.timesteps)

                def backward(loss: Tensor, share: float = share) -> None:
                    accelerator.backward(share * loss)

                with accelerator.autocast(casts):
                    terms = siamese_step(self.networks, part, objective, k, total_steps, backward)
                for name, value in terms.means().items():
                    means[name] = means.get(name, 0.0) + share * value
            skipped = self._update(k, settings.rate_factor(k, total_steps), means["loss"])
            return {**means, "skipped": torch.tensor(float(skipped), device=accelerator.device)}

        return step

    def _update(self, step: int, rate_factor: float, loss: Tensor) -> bool:
        """Average the gradients over all processes and step the optimiser; whether the step was left out."""
        gradients = [
            parameter.grad for parameter in self.networks.trained_parameters() if parameter.grad is not None
        ]
        loss = loss.clone()
        average(self.accelerator, [*gradients, loss])
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate_factor
        # With fp16 the loss is scaled so far that gradients overflow now and then: the scaler sees to it.
        checked = [loss] if self.accelerator.scaler is not None else [*gradients, loss]
        norms = torch.stack([torch.linalg.vector_norm(tensor) for tensor in checked])
        skipped = not bool(norms.isfinite().all())
        if not skipped:
            self.optimizer.step()
            skipped = self.optimizer.step_was_skipped
        self.optimizer.zero_grad(set_to_none=True)
        if not skipped and self.ema is not None:
            self.ema.step(self.networks.trained_parameters())
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        if self.skipped_in_a_row >= MOST_SKIPPED:
            raise Diverged(
                step,
                f"loss or gradients were not finite in {MOST_SKIPPED} steps in a row (loss {float(loss):g}); "
                "the training has diverged. Lower --learning-rate, or use --mixed-precision bf16 or no "
                "instead of fp16, and go on with --resume from the last checkpoint",
            )
        return skipped

    def finished_model(self, kind: FileKind, training: dict[str, Any], run_id: str) -> ModelFile:
        """The weights as they are as a model file: ``full`` or ``adapter`` (control and decoder only)."""
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


def _optimizer(groups: list[dict[str, Any]], settings: OptimiserSettings) -> Any:
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UserError(
            "--optimiser adamw8bit needs the package bitsandbytes: pip install 'siamese-diffusion[eightbit]'"
        ) from error
    return AdamW8bit(groups, weight_decay=settings.weight_decay)


def _memory_format(device: torch.device) -> torch.memory_format:
    """Channels last where convolutions are fastest so; on a CPU their backward pass is slower."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format
