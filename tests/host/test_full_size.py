"""Stable Diffusion 1.5 at full size through the pack: random weights, two steps; the authors' file too.

``SIAMESE_FULL_SIZE=1`` adds the 5.7 GB checkpoint in the published layout: 12 GB of disk, 8 GB of memory.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from siamese_core.architecture import SD15
from siamese_core.weights.key_layouts import merge_parts
from siamese_core.weights.key_names import Part, entries
from siamese_core.weights.model_file import FileKind, ModelFile, save_model
from siamese_core.weights.schedule_buffers import position_ids, schedule_buffers
from tests.support.anonymous_memory import peak_anonymous_memory

from .conftest import ROOT
from .support import graphs
from .support.server import Host
from .support.workflow import to_prompt

_PARTS: dict[FileKind, dict[str, Part]] = {
    "base": {"unet": "unet", "vae": "vae", "text": "text"},
    "adapter": {"unet": "decoder", "control": "control"},
    "full": {"unet": "unet", "control": "control", "vae": "vae", "text": "text"},
}


def random_parts(kind: FileKind, dtype: torch.dtype) -> dict[str, dict[str, torch.Tensor]]:
    """Weights of Stable Diffusion 1.5's shapes; norms pass what comes, the rest is small noise."""
    noise = torch.empty(64_000_000, dtype=dtype).normal_(
        0.0, 0.02, generator=torch.Generator().manual_seed(0)
    )

    def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if len(shape) == 1:
            return (torch.ones if name.endswith("weight") else torch.zeros)(shape, dtype=dtype)
        return noise[: int(np.prod(shape))].reshape(shape).clone()

    return {
        name: {entry.ldm: weight(entry.ldm, entry.ldm_shape) for entry in entries(part, SD15)}
        for name, part in _PARTS[kind].items()
    }


def write_random(path: Path, kind: FileKind) -> None:
    parts = random_parts(kind, torch.float16)
    save_model(path, ModelFile(kind, SD15, {"prompt": "an image of polyps"}, "full-size", parts))


@pytest.mark.slow
def test_the_adapter_workflow_runs_at_the_size_of_stable_diffusion(host: Host) -> None:
    workflow = json.loads((ROOT / "workflows" / "sd15_adapter.json").read_text("utf-8"))
    prompt = to_prompt(workflow, host.object_info())
    files = []
    for node in prompt.values():
        inputs = node["inputs"]
        if node["class_type"] == "CheckpointLoaderSimple":
            files.append((host.models_dir / "checkpoints" / inputs["ckpt_name"], "base"))
        elif node["class_type"] == "SiameseApplyAdapter":
            files.append((host.models_dir / "controlnet" / inputs["adapter"], "adapter"))
        elif node["class_type"] == "SiameseLoadMasks":
            inputs.update(count=1, width=64, height=64)  # 384 would take minutes a step here
        elif node["class_type"] == "SiameseMaskDiffusionSampler":
            inputs.update(steps=2)
    for path, kind in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_random(path, kind)
    try:
        host.run(prompt, timeout=900)
    finally:
        for path, _ in files:
            path.unlink()
            path.touch()  # other tests open the workflow, which names it
    (image,) = (host.output_dir / "sd15_adapter" / "images").iterdir()
    (mask,) = (host.output_dir / "sd15_adapter" / "masks").iterdir()
    assert np.asarray(Image.open(image)).shape == (64, 64, 3)
    assert np.asarray(Image.open(image)).std() > 1
    assert set(np.unique(np.asarray(Image.open(mask)))) == {0, 255}


@pytest.mark.slow
@pytest.mark.skipif("SIAMESE_FULL_SIZE" not in os.environ, reason="SIAMESE_FULL_SIZE is not set")
def test_the_authors_file_converts_in_little_memory_and_generates(host: Host) -> None:
    authors, own = (host.models_dir / "checkpoints" / name for name in ("authors.pth", "own.safetensors"))
    authors.parent.mkdir(parents=True, exist_ok=True)
    content = {**merge_parts(random_parts("full", torch.float32)), **schedule_buffers(), **position_ids(77)}
    torch.save({"state_dict": content, "global_step": 3000}, authors)
    count = len(content)
    del content
    try:
        assert authors.stat().st_size > 5.7e9 and count == 1512
        command = (sys.executable, "-m", "training.convert", authors, own, "--to", "full", "--dtype", "fp16")
        assert peak_anonymous_memory(*command) < 2 << 30
        for name in (authors.name, own.name):
            graph = graphs.model()
            graph["1"]["inputs"]["checkpoint"] = name
            graph["4"] = graphs.masks(count=1, width=64, height=64)
            graph["5"] = graphs.sampler(("4", 0), steps=2)
            host.run({**graph, "6": graphs.saved_latent(("5", 2), f"full_{name}")}, timeout=900)
            (path,) = host.output_dir.glob(f"full_{name}*.latent")
            assert torch.isfinite(load_file(path)["latent_tensor"]).all()
    finally:
        for path in (authors, own):
            path.unlink(missing_ok=True)
