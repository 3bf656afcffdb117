"""MODEL, CLIP and VAE of a graph as a base: what the headless training reads from the same file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from siamese_core import shipped
from siamese_core.architecture import TINY, Architecture
from siamese_core.diffusers_backend.base_model import load_base
from siamese_core.diffusers_backend.pair_encoding import encode_moments
from siamese_core.diffusers_backend.prompt_encoding import encode_prompts

from ..support.processes import inside
from ..support.server import Installation

BASE = shipped.BASE
DECODER, ENCODER = "output_blocks.3.0.in_layers.2.weight", "input_blocks.1.0.in_layers.2.weight"


def test_a_graphs_networks_are_the_files_and_encode_as_headless_training_does(
    installation: Installation, tmp_path: Path
) -> None:
    prompts = ["a photo of polyps", "", "a (big:1.3) polyp", "one of many polyps " * 30]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts), "utf-8")
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 128, 128), dtype=np.uint8)
    save_file({"images": torch.from_numpy(images)}, tmp_path / "images.safetensors")
    files = [tmp_path / name for name in ("prompts.json", "images.safetensors", "encoded.safetensors")]

    result = inside(installation, "base", BASE, *files, script="inside_training.py")

    assert result["equal"] == {"unet": True, "vae": True, "text": True}
    assert Architecture.from_json(result["architecture"]) == replace(TINY, resolution=512)
    encoded, base = load_file(files[-1]), load_base(BASE)
    contexts = encode_prompts(base.text_encoder, base.tokenizer, prompts)
    torch.testing.assert_close(encoded["contexts"], contexts, rtol=0, atol=1e-5)
    moments = encode_moments(base.vae, torch.from_numpy(images))
    torch.testing.assert_close(encoded["moments"], moments, rtol=0, atol=1e-4)

    added, digest = result["patched"][DECODER]
    assert abs(added - 0.5) < 1e-6
    assert digest != result["digest"]
    assert ENCODER in result["patched"][ENCODER]
