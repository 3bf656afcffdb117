"""Small graphs of the pack's nodes in the API format, to run in the host."""

from __future__ import annotations

from typing import Any

from siamese_core import shipped

Node = dict[str, Any]
Graph = dict[str, Node]


def node(kind: str, **inputs: Any) -> Node:
    """A node; an input given as ``("3", 0)`` is output 0 of node 3."""
    return {
        "class_type": kind,
        "inputs": {
            name: list(value) if isinstance(value, tuple) else value for name, value in inputs.items()
        },
    }


def masks(folder: str = "(bundled examples)", **changes: Any) -> Node:
    settings = {
        "folder": folder,
        "start": 0,
        "count": 0,
        "threshold": 127,
        "width": 128,
        "height": 128,
        "resize_mode": "stretch",
        "invert": False,
        "label": 0,
    }
    return node("SiameseLoadMasks", **{**settings, **changes})


def transform(source: tuple[str, int], **changes: Any) -> Node:
    settings = {
        "masks": source,
        "variants": 2,
        "total": 0,
        "seed": 3,
        "scale_min": 0.8,
        "scale_max": 1.2,
        "translate": 0.1,
        "rotate": 20.0,
        "flip": "both",
        "shear": 0.0,
        "elastic": 0.0,
        "morph": 0,
        "area_min": 0.005,
        "area_max": 0.6,
        "inside": False,
        "components_min": 0,
        "components_max": 0,
        "attempts": 50,
    }
    return node("SiameseRandomMaskTransform", **{**settings, **changes})


def model() -> Graph:
    """Nodes 1 to 3: the bundled model, a prompt and an empty one."""
    return {
        "1": node("SiameseLoadCheckpoint", checkpoint="nuclei-siamese.safetensors (bundled)"),
        "2": node("CLIPTextEncode", clip=("1", 1), text="a fluorescence image of nuclei"),
        "3": node("CLIPTextEncode", clip=("1", 1), text=""),
    }


def training(**changes: Any) -> Graph:
    """Nodes 1 and 30: the bundled base, trained on the sample pairs."""
    settings = {
        "model": ("1", 0),
        "clip": ("1", 1),
        "vae": ("1", 2),
        "pairs": "(bundled sample pairs)",
        "prompt": "",
        "name": "trained",
        "steps": 4,
        "resolution": 64,
        "batch_size": 2,
        "micro_batches": 1,
        "learning_rate": 1e-4,
        "seed": 5,
        "precision": "no",
        "gradient_checkpointing": False,
        "save_every": 100,
        "preview_every": 0,
        "preview_cfg": 3.0,
        "if_exists": "resume",
        "files": "adapter",
    }
    return {
        "1": node("SiameseLoadCheckpoint", checkpoint=f"{shipped.BASE.name} (bundled)"),
        "30": node("SiameseTrain", **{**settings, **changes}),
    }


def sampler(mask: tuple[str, int], **changes: Any) -> Node:
    settings = {
        "model": ("1", 0),
        "control_net": ("1", 3),
        "positive": ("2", 0),
        "negative": ("3", 0),
        "vae": ("1", 2),
        "mask": mask,
        "seed": 11,
        "steps": 4,
        "cfg": 3.0,
        "sampler_name": "ddim",
        "scheduler": "ddim_uniform",
        "strength": 1.0,
        "batch_size": 4,
    }
    return node("SiameseMaskDiffusionSampler", **{**settings, **changes})


def stock_sampling(mask: tuple[str, int], *, latents: int = 1, side: int = 128, **changes: Any) -> Graph:
    """Nodes 20 to 23: the mask through the host's own apply node and sampler; the latent is 23's first."""
    settings = {
        "model": ("1", 0),
        "positive": ("21", 0),
        "negative": ("21", 1),
        "latent_image": ("22", 0),
        "seed": 11,
        "steps": 4,
        "cfg": 3.0,
        "sampler_name": "ddim",
        "scheduler": "ddim_uniform",
        "denoise": 1.0,
    }
    apply = node(
        "ControlNetApplyAdvanced",
        positive=("2", 0),
        negative=("3", 0),
        control_net=("1", 3),
        image=("20", 0),
        strength=1.0,
        start_percent=0.0,
        end_percent=1.0,
    )
    return {
        "20": node("MaskToImage", mask=mask),
        "21": apply,
        "22": node("EmptyLatentImage", width=side, height=side, batch_size=latents),
        "23": node("KSampler", **{**settings, **changes}),
    }


def saved_latent(source: tuple[str, int], name: str) -> Node:
    return node("SaveLatent", samples=source, filename_prefix=name)


def saved_pairs(images: tuple[str, int], masks: tuple[str, int], folder: str, **more: Any) -> Node:
    inputs = {"images": images, "masks": masks, "folder": folder, "if_exists": "number", "prompt": ""}
    return node("SiameseSavePairs", **{**inputs, **more})


def preview(mask: tuple[str, int]) -> Graph:
    """Nodes 90 and 91: something that makes the host compute a mask."""
    return {"90": node("MaskToImage", mask=mask), "91": node("PreviewImage", images=("90", 0))}
