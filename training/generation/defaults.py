"""What is not given to generate: as in a dataset that is resumed, or else as the model has it."""

from __future__ import annotations

from pathlib import Path

import torch

from siamese_core.dataset_generation.finished_pairs import DatasetPlan
from siamese_core.dataset_generation.mask_source import PairSize
from siamese_core.diffusers_backend.siamese_model import DTYPES, Precision
from siamese_core.masks.folder_contents import Tell
from siamese_core.masks.resizing import ResizeMode
from siamese_core.weights.model_file import ModelFile
from siamese_core.weights.recorded_sampling import (
    PAPER_RESOLUTION,
    own_sampling,
    recorded_resize_mode,
    recorded_side,
)

from ..command_line.options import OptionError


def default_resolution(path: Path, checkpoint: ModelFile, tell: Tell) -> int:
    """The image side in pixels recorded in ``checkpoint`` (the model file at ``path``), or else the paper's.

    Raises CheckpointError for an impossible recorded value.
    """
    recorded = recorded_side(checkpoint.training)
    if recorded is None:
        tell(
            f"{path} does not record at which size it was trained: it samples at the paper's "
            f"{PAPER_RESOLUTION} px; --resolution gives another"
        )
    return recorded or PAPER_RESOLUTION


def chosen_resize_mode(
    given: ResizeMode | None, size: PairSize, checkpoint: ModelFile, begun: DatasetPlan | None
) -> ResizeMode:
    """``given``, else the resize mode of the dataset being resumed (``begun``) or of the model's training.

    Raises OptionError if pairs of the masks' own ``size`` could not be had from it.
    """
    mode = given or recorded_resize_mode(begun.settings if begun else checkpoint.training)
    if size == "source" and mode != "stretch":
        raise OptionError(
            f"--size source cannot undo --resize-mode {mode} (given, or as in training), and image and mask "
            "would not match; use --resize-mode stretch"
        )
    return mode


def default_guidance(checkpoint: ModelFile, begun: DatasetPlan | None) -> float:
    """The guidance scale of the dataset being resumed, if any (``begun``), or else the model's own."""
    recorded = begun.settings.get("guidance") if begun else None
    if isinstance(recorded, float):
        return recorded
    return own_sampling(checkpoint.training, checkpoint.architecture).guidance


def default_precision(device: torch.device, begun: DatasetPlan | None) -> Precision:
    """The precision of the dataset being resumed (``begun``; fp32 if not recorded), else the device's own."""
    if begun is None:
        return "fp16" if device.type == "cuda" else "fp32"
    return next((own for own in DTYPES if own == begun.settings.get("precision")), "fp32")
