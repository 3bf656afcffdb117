"""Graphs that make datasets, and what they have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import graphs

SMALL = {"width": 64, "height": 64}
"""A quarter of the work of the model's own size, where a test does not look at the images."""


def dataset(folder: str, **changes: Any) -> graphs.Node:
    settings = {
        "model": ("1", 0),
        "control_net": ("1", 3),
        "positive": ("2", 0),
        "negative": ("3", 0),
        "vae": ("1", 2),
        "masks": "(bundled examples)",
        "folder": folder,
        "format": "pairs",
        "per_mask": 1,
        "seed": 11,
        "steps": 2,
        "cfg": 3.0,
        "sampler_name": "ddim",
        "scheduler": "ddim_uniform",
        "strength": 1.0,
        "batch_size": 3,
        "chunk_size": 6,
        "width": 128,
        "height": 128,
        "resize_mode": "stretch",
        "threshold": 127,
        "label": 0,
        "prompt": "a fluorescence image of nuclei",
    }
    return graphs.node("SiameseGenerateDataset", **{**settings, **changes})


def graph(folder: str, **changes: Any) -> graphs.Graph:
    return {**graphs.model(), "7": dataset(folder, **changes)}


def drawn(folder: str, **changes: Any) -> graphs.Graph:
    """Four random masks for each example."""
    random = {"4": graphs.masks(), "5": graphs.transform(("4", 0), variants=1)}
    return {**random, **graph(folder, **{"per_mask": 4, "transform": ("5", 2), **changes})}


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".run" not in path.parts
    }


def manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]
