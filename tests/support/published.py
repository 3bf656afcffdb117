"""A checkpoint as the published implementation saves it."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_core.architecture import (
    Architecture,
)
from siamese_core.weights.key_layouts import PREFIXES
from siamese_core.weights.key_names import Part, entries
from siamese_core.weights.schedule_buffers import position_ids, schedule_buffers

PARTS: tuple[Part, ...] = ("unet", "control", "vae", "text")


def published(architecture: Architecture) -> dict[str, Tensor]:
    """A checkpoint as the published implementation saves it: random weights, and its constants."""
    generator = torch.Generator().manual_seed(1)
    tensors = {
        PREFIXES[part] + entry.ldm: torch.randn(entry.ldm_shape, generator=generator)
        for part in PARTS
        for entry in entries(part, architecture)
    }
    tensors |= schedule_buffers()
    if architecture.text.family == "clip":
        tensors |= position_ids(77)
    return tensors
