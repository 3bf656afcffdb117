"""The demo end to end at its smallest, and the base that ships with the pack."""

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
from siamese_core.phantom import make_phantom
from training import demo

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
    (own / "report.html").write_text("old")
    (foreign / "phantoms").mkdir(parents=True)
    (foreign / "chapter.txt").write_text("years of work")

    demo._prepare(own)
    assert list(own.iterdir()) == []
    with pytest.raises(demo.OptionError, match=r"chapter\.txt, which no demo wrote"):
        demo._prepare(foreign)
    assert (foreign / "chapter.txt").read_text() == "years of work"


def test_the_shipped_base_is_small_and_says_what_it_is() -> None:
    base = load_model(demo.TINY_BASE)

    assert demo.TINY_BASE.stat().st_size <= 16e6
    assert base.kind == "base"
    assert base.architecture == TINY
    assert base.training["command"] == "make_base"
    assert base.run_id


@torch.no_grad()
def test_the_shipped_base_has_unit_latents_and_rebuilds_phantoms() -> None:
    base = load_base(demo.TINY_BASE)
    images = np.stack([make_phantom(seed).image for seed in range(9000, 9006)])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0

    latents = base.vae.encode(pixels).latent_dist.mode()
    error = base.vae.decode(latents).sample - pixels

    assert float((latents * LATENT_SCALE).std()) == pytest.approx(1.0, abs=0.15)
    assert float(error.square().mean()) < 4 * 10**-2.3  # better than 23 dB
