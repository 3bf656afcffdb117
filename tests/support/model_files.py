"""Model files of every kind, of random weights."""

from __future__ import annotations

import torch

from siamese_core.architecture import Architecture, TextArchitecture, UNetArchitecture, VAEArchitecture
from siamese_core.weights.key_names import Part, entries
from siamese_core.weights.model_file import FileKind, ModelFile

SMALL = Architecture(
    unet=UNetArchitecture(widths=(32, 32), layers_per_block=1, num_heads=4, context_dim=32),
    vae=VAEArchitecture(widths=(32, 32), layers_per_block=1),
    text=TextArchitecture(32, 64, num_layers=1, num_heads=4, vocab_size=100, max_tokens=8),
    resolution=64,
)
TRAINING = {
    "settings": {"steps": 300},
    "step": 300,
    "N": 300,
    "prompt": "an image of a polyp",
    "data": "ab12",
}
KIND_PARTS: dict[FileKind, dict[str, Part]] = {
    "full": {"unet": "unet", "control": "control", "vae": "vae", "text": "text"},
    "adapter": {"unet": "decoder", "control": "control"},
    "control": {"control": "control"},
    "base": {"unet": "unet", "vae": "vae", "text": "text"},
}


def make_model(kind: FileKind) -> ModelFile:
    generator = torch.Generator().manual_seed(0)
    parts = {
        name: {e.ldm: torch.randn(e.ldm_shape, generator=generator) for e in entries(part, SMALL)}
        for name, part in KIND_PARTS[kind].items()
    }
    return ModelFile(kind=kind, architecture=SMALL, training=TRAINING, run_id="run-7", parts=parts)
