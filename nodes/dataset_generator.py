"""Generate Dataset's work on each pair: its record, sampling by the host, and the progress bar."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import comfy.model_management
import comfy.utils
import comfyui_version
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..siamese_core.dataset_generation.background_frames import Frame, Frames, frame_of_pair
from ..siamese_core.dataset_generation.finished_pairs import DatasetError, DatasetLists, stored_plan
from ..siamese_core.dataset_generation.mask_source import MaskSource, MaskUse, PairMask
from ..siamese_core.dataset_generation.storage import DatasetStore
from ..siamese_core.masks.foreground_rule import ForegroundRule
from ..siamese_core.method.background_blending import DEFAULT_BLEND
from ..siamese_core.pairs.export_formats import FinishedPair
from ..siamese_core.pairs.manifest import PairRecord, record_text
from ..siamese_core.resume_check import READ_DIFFERENTLY
from ..siamese_core.seeds import sample_seed
from ..siamese_core.settings import recorded
from .host.host_models import FILE, RUN_ID
from .host.mask_tensors import image_arrays
from .host.sheets import SHOWN_PAIRS, sheet_of, sheet_pixels
from .sampler import Sampling
from .sampling.background import Background

_PREVIEW_SIDE = 512
_INVERT = "mask_invert"


@dataclass(frozen=True)
class Job:
    """A pair to generate."""

    record: PairRecord
    mask: PairMask
    frame: Frame | None


@dataclass(frozen=True)
class DatasetGenerator:
    """Generates the pairs of ``source`` with the host's sampling.

    ``facts`` are the manifest entries that all pairs have in common.
    """

    source: MaskSource
    sampling: Sampling
    seed: int
    prompt: str
    facts: dict[str, Any]
    graph_text: dict[str, str]
    nodes: Mapping[str, Any] | None
    frames: Frames | None = None
    blend: int = DEFAULT_BLEND

    @property
    def identity(self) -> dict[str, Any]:
        transforms = self.source.use.transforms
        return {
            **self.facts,
            "command": "SiameseGenerateDataset",
            "masks": self.source.digest,
            "per_mask": self.source.per_mask,
            "transforms": None if transforms is None else recorded(transforms),
            "transform_seed": self.source.seed,
            "prompt": self.prompt,
            "seed": self.seed,
            **({READ_DIFFERENTLY: self.source.changes} if self.source.changes else {}),
            **({"backgrounds": self.frames.digest, "blend": self.blend} if self.frames else {}),
        }

    def job(self, index: int) -> Job:
        mask = self.source.mask(index)
        facts, frame = self._facts_by(mask.rule), None
        if self.frames is not None:
            use = self.source.use
            frame = frame_of_pair(self.frames, self.seed, index, use.size, use.resize_mode)
            facts |= {"blend": self.blend, "background": frame.name, "background_digest": frame.digest}
        record = PairRecord(
            index=index,
            stem=mask.stem,
            seed=sample_seed(self.seed, index),
            mask_file=mask.file.name,
            mask_digest=mask.digest,
            prompt=self.prompt,
            checkpoint_digest=facts.pop("checkpoint"),
            run_id=facts.pop("run_id"),
            sampler={**facts, "nodes": self.nodes},
            transform=mask.transform,
            versions={"comfyui": comfyui_version.__version__, "torch": torch.__version__},
        )
        return Job(record, mask, frame)

    def _facts_by(self, rule: ForegroundRule) -> dict[str, Any]:
        """``facts`` for a pair whose mask file was read with ``rule``."""
        if rule == self.source.use.rule:
            return dict(self.facts)
        others = {name: value for name, value in self.facts.items() if name != _INVERT}
        return {**others, **rule_facts(rule)}

    def generate(self, jobs: Sequence[Job]) -> list[FinishedPair]:
        masks = torch.from_numpy(np.stack([job.mask.for_model for job in jobs]))
        frames = [job.frame for job in jobs if job.frame is not None]
        background = Background.of(frames, masks, self.blend) if frames else None
        seeds = [job.record.seed or 0 for job in jobs]
        _, images = self.sampling.sample(masks, seeds, _on_step, background)
        pixels = image_arrays(images)
        return [self._finished(job, image, len(jobs)) for job, image in zip(jobs, pixels, strict=True)]

    def _finished(self, job: Job, image: NDArray[np.uint8], batch_size: int) -> FinishedPair:
        record = replace(job.record, sampler={**job.record.sampler, "batch_size": batch_size})
        return FinishedPair(record, image, job.mask.written, {**record_text(record), **self.graph_text})


class DatasetProgress:
    """The progress bar with a preview of the latest pairs; lets the user interrupt between batches."""

    def __init__(self, total: int) -> None:
        self._bar = comfy.utils.ProgressBar(total)
        self._total = total
        self._latest: list[tuple[NDArray[np.uint8], NDArray[np.bool_]]] = []
        self.done = 0
        self.begun = False

    def on_pairs(self, pairs: Sequence[FinishedPair], known: int) -> None:
        self.begun = True
        self.done += len(pairs) + known
        self._latest = [*self._latest, *((pair.image, pair.mask) for pair in pairs)][-SHOWN_PAIRS:]
        preview = None
        if pairs:
            preview = ("JPEG", Image.fromarray(sheet_pixels(self._latest)), _PREVIEW_SIDE)
        self._bar.update_absolute(self.done, self._total, preview)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def sheet(self, lists: DatasetLists) -> Tensor:
        """The latest pairs as an IMAGE; if none was generated in this run, the last ones of the dataset."""
        return sheet_of(self._latest or stored_pairs(lists, SHOWN_PAIRS))


def facts_of(sampling: Sampling, use: MaskUse) -> dict[str, Any]:
    """Manifest entries that describe the sampling and the models, the same for every pair."""
    file = sampling.model.get_attachment(FILE)
    height, width = use.size
    return {
        "name": sampling.sampler_name,
        "scheduler": sampling.scheduler,
        "steps": sampling.steps,
        "guidance": sampling.cfg,
        "strength": sampling.strength,
        "width": width,
        "height": height,
        "resize_mode": use.resize_mode,
        **rule_facts(use.rule),
        "device": str(sampling.model.load_device.type),
        "threads": torch.get_num_threads(),
        "checkpoint": file.digest() if file else "",
        "run_id": sampling.model.get_attachment(RUN_ID) or "",
    }


def rule_facts(rule: ForegroundRule) -> dict[str, Any]:
    """Manifest entries that describe how a mask file was read."""
    facts = {"mask_threshold": rule.threshold, "mask_label": rule.label}
    # Added later, and omitted at its default so that older datasets can be resumed.
    return {**facts, _INVERT: True} if rule.invert else facts


def _on_step(step: int, x0: Tensor, x: Tensor, total: int) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


def on_smaller_batch(size: int) -> None:
    """Log that the batch size drops to ``size``, and free memory."""
    logging.warning(
        "Siamese-Diffusion: out of memory; continuing with %d at once. These pairs equal those of the larger "
        "batch within rounding only.",
        size,
    )
    comfy.model_management.soft_empty_cache()


def settings_of(store: DatasetStore) -> Mapping[str, Any]:
    """The settings that the dataset in ``store`` was begun with; {} if there is none that can be read."""
    try:
        return stored_plan(store).settings
    except DatasetError:
        return {}


def stored_pairs(lists: DatasetLists, count: int) -> list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """The last ``count`` pairs of a dataset as images (H, W, 3) and masks (H, W).

    Empty for formats in which several pairs share a file.
    """
    if lists.plan.form.chunk_is_a_file:
        return []
    latest = deque((line["files"] for line in lists.lines() if "files" in line), maxlen=count)
    return [
        (_pixels(lists, image["name"], "RGB"), _pixels(lists, mask["name"], "L") > 0)
        for image, mask in latest
    ]


def _pixels(lists: DatasetLists, name: str, mode: str) -> NDArray[np.uint8]:
    with Image.open(BytesIO(lists.store.read(name))) as image:
        return np.asarray(image.convert(mode))
