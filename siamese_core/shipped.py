"""Where the files that come with the pack are: two models, sample pairs and example masks."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"

BASE = ASSETS / "nuclei-base.safetensors"
"""A small base model for 128 px, to train from."""

MODEL = ASSETS / "nuclei-siamese.safetensors"
"""A whole model trained from :data:`BASE`, ready to generate with."""

TRAIN, HELD_OUT = ASSETS / "nuclei" / "train", ASSETS / "nuclei" / "held_out"
"""Real pairs of nuclei at 128 px with prompts; no shipped model has seen those of :data:`HELD_OUT`."""

EXAMPLE_MASKS = ASSETS / "example_masks"
"""A few masks at 128 px, of pairs of :data:`HELD_OUT`."""

FRAMES = ASSETS / "nuclei" / "frames"
"""Real images of tissue at 128 px without nuclei, to generate them into."""
