"""A training run inside the host: from the graph's networks and a folder of pairs to a finished adapter."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import comfyui_version
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...siamese_core.errors import UserError
from ...siamese_core.files import atomic_path
from ...siamese_core.json_lines import json_objects
from ...siamese_core.learning.encoded_pairs import encode_pairs, load_training_set
from ...siamese_core.learning.engine import SingleProcess
from ...siamese_core.learning.optimiser_step import Trainer
from ...siamese_core.learning.settings import BatchSettings, ExecutionSettings, OptimiserSettings, Precision
from ...siamese_core.learning.step_loop import LoopSettings
from ...siamese_core.learning.training_run import TrainingRun
from ...siamese_core.learning.training_set import TrainingSet
from ...siamese_core.masks.foreground_rule import ForegroundRule
from ...siamese_core.method.objective import ObjectiveSettings
from ...siamese_core.pairs.pair_files import Pair, pairs_fingerprint, prompts_digest
from ...siamese_core.settings import recorded
from ...siamese_core.weights.model_file import ModelFile
from ..host.memory import is_out_of_memory
from ..host.notices import show
from .frozen_networks import HostEncoder
from .held_networks import HeldNetworks, held
from .host_base import HostBase
from .host_networks import HostNetworks, build_control, build_unet, fresh_control
from .preview import Preview
from .progress import TrainingProgress
from .run_folder import RunPlace, clear

_LOG_EVERY = 10
_LOG_FILE = "log.jsonl"


class TrainingMemoryError(UserError):
    """Training does not fit into memory; the message names the setting to change."""


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a training run, named like the node's inputs where it has them."""

    steps: int
    resolution: int
    seed: int
    precision: Precision
    rule: ForegroundRule
    prompt: str
    save_every: int
    preview_every: int
    preview_cfg: float
    own_guidance: float
    batches: BatchSettings
    optimiser: OptimiserSettings
    execution: ExecutionSettings
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)

    def record(self, pairs: list[Pair], base: HostBase) -> dict[str, Any]:
        """Everything that determines the result; resuming requires an equal record."""
        prompts = Counter(pair.prompt or "" for pair in pairs)
        return {
            "command": "SiameseTrain",
            "steps": self.steps,
            "resolution": self.resolution,
            "resize_mode": "stretch",
            "mask_threshold": self.rule.threshold,
            "mask_label": self.rule.label,
            "seed": self.seed,
            "mixed_precision": self.precision,
            **recorded(self.objective),
            **recorded(self.batches),
            **recorded(self.optimiser),
            "prompt": self.prompt or prompts.most_common(1)[0][0],
            "pairs": len(pairs),
            "pairs_fingerprint": pairs_fingerprint(pairs),
            "prompts_digest": prompts_digest(pairs),
            "base": base.digest,
            "parent": base.parent,
        }


@dataclass(frozen=True)
class FinishedTraining:
    """The adapter, the loss of every step, and a ``sheet`` (H, W, 3) of samples from the trained weights."""

    adapter: ModelFile
    losses: list[float]
    sheet: NDArray[np.uint8]


def train(
    base: HostBase,
    clip: Any,
    vae: Any,
    pairs: list[Pair],
    settings: TrainingSettings,
    place: RunPlace,
    record: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> FinishedTraining:
    """Train to the end in ``place``, from its newest checkpoint when ``place.resume`` is set.

    ``notes`` are shown on the node all the while.

    Inference mode must be off. Raises the host's interruption, with all completed steps saved, when the user
    asks for it; otherwise Diverged, TrainingMemoryError, ResumeError or PairError, which say what to do.
    """
    clear(place)
    networks = _networks(base, settings)
    with held(networks) as holding:
        engine = SingleProcess(holding.device)
        run = TrainingRun(place.folder, record, engine, place.resume, note=logging.warning)
        with run.opened() as run_id:
            trainer = Trainer.create(networks, settings.optimiser, engine, settings.precision)
            first = run.restored(trainer.state, settings.steps)
            data = _encoded(clip, vae, pairs, settings, place.folder, record)
            holding.bring()  # encoding may have displaced the networks
            progress = TrainingProgress(settings.steps, first, notes)
            preview = Preview(networks, data, vae, settings.preview_cfg, settings.seed, holding.device)
            sheets = _Sheets(trainer, holding, preview, progress, place.folder / "samples")

            def after_step(done: int) -> None:
                progress.on_step(done)
                if settings.preview_every and done % settings.preview_every == 0 and done < settings.steps:
                    sheets.make(done)

            run.train(
                _step_function(trainer, data, settings),
                LoopSettings(settings.steps, settings.save_every, _LOG_EVERY),
                trainer.state,
                first,
                label="Siamese-Diffusion",
                report=progress.on_values,
                after_step=after_step,
                stopped_by=comfy.model_management.InterruptProcessingException,
            )
            sheet = sheets.make(settings.steps)
            with trainer.averaged_weights():
                facts = {**record, "step": settings.steps, "sample_guidance": settings.own_guidance}
                adapter = _adapter(base, networks, facts, run_id)
    return FinishedTraining(adapter, _losses(place.folder / _LOG_FILE), sheet)


def _networks(base: HostBase, settings: TrainingSettings) -> HostNetworks:
    if base.control is None:
        control = fresh_control(base.config, base.unet, settings.seed)
    else:
        control = build_control(base.config, base.architecture.hint_block, base.control)
    unet = build_unet(base.config, base.unet)
    checkpointing = settings.execution.gradient_checkpointing
    return HostNetworks.assemble(unet, control, base.architecture.prediction, checkpointing)


def _encoded(
    clip: Any,
    vae: Any,
    pairs: list[Pair],
    settings: TrainingSettings,
    run_folder: Path,
    record: Mapping[str, Any],
) -> TrainingSet:
    """The encoded pairs, reused from the run's folder if made from the same data, settings and base."""
    names = ("base", "pairs_fingerprint", "prompts_digest", "resolution", "mask_threshold", "mask_label")
    folder, key = run_folder / "encoded", json.dumps([record[name] for name in names])
    found = load_training_set(folder, key)
    if found is None:
        bar = comfy.utils.ProgressBar(len(pairs))

        def on_images(count: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update(count)

        encode_pairs(
            folder,
            key,
            HostEncoder(clip, vae, on_images),
            pairs,
            settings.resolution,
            rule=settings.rule,
            default_prompt=settings.prompt,
        )
        found = load_training_set(folder, key)
    if found is None:
        raise UserError(f"'{folder}' was changed while it was being written; queue again.")
    return found


@dataclass(frozen=True)
class _Sheets:
    """Makes preview sheets, saves them, and shows them on the node."""

    trainer: Trainer
    holding: HeldNetworks
    preview: Preview
    progress: TrainingProgress
    folder: Path

    def make(self, done: int) -> NDArray[np.uint8]:
        with self.trainer.averaged_weights(), self.trainer.autocast():
            pixels = self.preview.sheet()
        self.holding.bring()
        self.folder.mkdir(exist_ok=True)
        with atomic_path(self.folder / f"step-{done:08d}.png") as temporary:
            Image.fromarray(pixels).save(temporary)
        self.progress.on_sheet(pixels)
        return pixels


def _step_function(
    trainer: Trainer, data: TrainingSet, settings: TrainingSettings
) -> Callable[[int], dict[str, Tensor]]:
    """The optimiser step as a function of k, which doubles the micro batches when memory runs out.

    It raises TrainingMemoryError when even single pairs do not fit.
    """

    def with_parts(parts: int) -> Callable[[int], dict[str, Tensor]]:
        return trainer.step_function(
            data,
            settings.objective,
            settings.batches,
            settings.optimiser,
            settings.steps,
            settings.seed,
            parts,
        )

    parts = settings.execution.micro_batches
    run = with_parts(parts)

    def step(k: int) -> dict[str, Tensor]:
        nonlocal parts, run
        while True:
            failure = ""
            try:
                return run(k)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                failure = str(error)
            # Outside the handler: there, the exception keeps the step's tensors alive.
            if parts >= settings.batches.batch_size:
                raise TrainingMemoryError(_advice(settings, failure))
            parts = min(2 * parts, settings.batches.batch_size)
            run = with_parts(parts)
            note = f"out of memory; continuing with {parts} micro_batches, equal within rounding"
            logging.warning("Siamese-Diffusion: %s", note)
            show(warnings=[note])
            comfy.model_management.soft_empty_cache()

    return step


def _advice(settings: TrainingSettings, failure: str) -> str:
    remedy = "lower resolution"
    if not settings.execution.gradient_checkpointing:
        remedy = "turn on gradient_checkpointing, or lower resolution"
    reason = (failure.splitlines() or [""])[0]
    return f"The training is out of memory with one pair at a time ({reason}); {remedy}."


def _adapter(base: HostBase, networks: HostNetworks, training: dict[str, Any], run_id: str) -> ModelFile:
    """The adapter with copies of the current weights."""

    def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: value.detach().to("cpu", copy=True) for key, value in state.items()}

    parts = {
        "unet": copied(networks.decoder.state_dict()),
        "control": copied(networks.control.network.state_dict()),
    }
    versions = {"comfyui": comfyui_version.__version__, "torch": torch.__version__}
    return ModelFile("adapter", base.architecture, {**training, "versions": versions}, run_id, parts)


def _losses(log: Path) -> list[float]:
    return [float(line.value["loss"]) for line in json_objects(log)]
