"""The demo end to end at its smallest, and the models that ship with the pack."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from siamese_core.architecture import LATENT_SCALE, TINY
from siamese_core.base import load_base
from siamese_core.checkpoint import load_model
from siamese_core.phantom import make_phantom, write_phantoms
from training import demo, generate

SMALLEST = [
    *("--pairs", "4"),
    *("--held-out", "2"),
    *("--steps", "2"),
    *("--batch-size", "2"),
    *("--sampling-steps", "2"),
    *("--segmenter-steps", "2"),
    *("--threads", "1"),
]


def test_the_demo_leaves_pairs_a_report_and_a_summary(tmp_path: Path) -> None:
    output = tmp_path / "demo"

    assert demo.main([*SMALLEST, "--output", str(output)]) == 0

    summary = json.loads((output / "summary.json").read_text("utf-8"))
    assert summary["pairs"] == 2
    assert summary["seconds"] > 0
    assert 0.0 <= summary["mask_adherence_dice"] <= 1.0
    assert summary["settings"]["steps"] == 2
    assert len(list((output / "pairs" / "images").iterdir())) == 2
    assert "<html" in (output / "report.html").read_text("utf-8")
    assert Image.open(output / "contact_sheet.png").size[0] > 128


def test_the_demo_replaces_an_earlier_demo_and_nothing_else(tmp_path: Path) -> None:
    own, foreign = tmp_path / "demo", tmp_path / "thesis"
    (own / "phantoms").mkdir(parents=True)
    (own / "old.txt").write_text("old")
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("years of work")

    demo._prepare(own)
    assert list(own.iterdir()) == []
    with pytest.raises(demo.OptionError, match="not an earlier demo"):
        demo._prepare(foreign)
    assert (foreign / "chapter.txt").read_text() == "years of work"


def test_the_shipped_models_are_small_and_say_what_they_are() -> None:
    base, siamese = load_model(demo.TINY_BASE), load_model(demo.TINY_SIAMESE)

    assert demo.TINY_BASE.stat().st_size + demo.TINY_SIAMESE.stat().st_size <= 40e6
    assert (base.kind, siamese.kind) == ("base", "full")
    assert base.architecture == siamese.architecture == TINY
    assert siamese.training["resolution"] == 128
    assert siamese.training["steps"] == siamese.training["step"]
    assert base.run_id and siamese.run_id and base.run_id != siamese.run_id


@torch.no_grad()
def test_the_shipped_base_has_unit_latents_and_rebuilds_phantoms() -> None:
    base = load_base(demo.TINY_BASE)
    images = np.stack([make_phantom(seed).image for seed in range(9000, 9006)])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0

    latents = base.vae.encode(pixels).latent_dist.mode()
    error = base.vae.decode(latents).sample - pixels

    assert float((latents * LATENT_SCALE).std()) == pytest.approx(1.0, abs=0.15)
    assert float(error.square().mean()) < 4 * 10**-2.3  # better than 23 dB


def test_the_shipped_model_paints_lesions_where_the_masks_are(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "held_out", 6, seed=77)

    generate.main(
        [
            *("--checkpoint", str(demo.TINY_SIAMESE)),
            *("--masks", str(tmp_path / "held_out")),
            *("--output", str(tmp_path / "pairs")),
            *("--steps", "10"),
            *("--guidance", "2"),
            *("--batch-size", "6"),
        ]
    )

    contrasts = []
    for path in sorted((tmp_path / "pairs" / "images").iterdir()):
        image = np.asarray(Image.open(path)).astype(float)
        lesion = np.asarray(Image.open(tmp_path / "pairs" / "masks" / path.name)) > 0
        contrasts.append(np.linalg.norm(image[lesion].mean(axis=0) - image[_ring(lesion)].mean(axis=0)))
    # Real phantoms have a median of about 100 grey levels between lesion and ring.
    assert np.median(contrasts) > 40


def _ring(lesion: np.ndarray, width: int = 8) -> np.ndarray:
    """The pixels within ``width`` of the lesion, but not of it."""
    grown = lesion.copy()
    for _ in range(width):
        padded = np.pad(grown, 1)
        grown = (
            padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        )
    return grown & ~lesion
