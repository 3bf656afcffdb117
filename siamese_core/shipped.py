"""Paths of the bundled files: two models, sample pairs, example masks and frames."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"

BASE = ASSETS / "nuclei-base.safetensors"
"""A small base model for 128 px, to train from."""

MODEL = ASSETS / "nuclei-siamese.safetensors"
"""A full model trained from :data:`BASE`, ready to generate with."""

TRAIN, HELD_OUT = ASSETS / "nuclei" / "train", ASSETS / "nuclei" / "held_out"
"""Real pairs of nuclei at 128 px with prompts; no bundled model was trained on those in :data:`HELD_OUT`."""

EXAMPLE_MASKS = ASSETS / "example_masks"
"""A few masks at 128 px, taken from :data:`HELD_OUT`."""

FRAMES = ASSETS / "nuclei" / "frames"
"""Real images at 128 px without nuclei, as backgrounds to generate nuclei into."""
