"""Stable Diffusion 1.5 at full size through the pack: random weights, the shipped workflow, two steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from siamese_core.architecture import SD15
from siamese_core.checkpoint import FileKind, ModelFile, save_model
from siamese_core.layout_names import Part, entries

from .conftest import ROOT
from .server import Host
from .workflow import to_prompt

_PARTS: dict[FileKind, dict[str, Part]] = {
    "base": {"unet": "unet", "vae": "vae", "text": "text"},
    "adapter": {"unet": "decoder", "control": "control"},
}


def write_random(path: Path, kind: FileKind) -> None:
    """A model file of Stable Diffusion 1.5's shapes; norms pass what comes, the rest is small noise."""
    noise = torch.empty(64_000_000, dtype=torch.float16).normal_(
        0.0, 0.02, generator=torch.Generator().manual_seed(0)
    )

    def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if len(shape) == 1:
            return (torch.ones if name.endswith("weight") else torch.zeros)(shape, dtype=torch.float16)
        return noise[: int(np.prod(shape))].reshape(shape).clone()

    parts = {
        name: {entry.ldm: weight(entry.ldm, entry.ldm_shape) for entry in entries(part, SD15)}
        for name, part in _PARTS[kind].items()
    }
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
