"""The demo end to end at its smallest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

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


@pytest.mark.parametrize(
    ("flags", "steps"),
    [([], 25), (["--sampler", "dpmpp-2m"], 15), (["--sampler", "dpmpp-2m", "--sampling-steps", "8"], 8)],
)
def test_a_sampler_brings_its_own_number_of_steps(flags: list[str], steps: int) -> None:
    assert demo._parse(flags)[1].sampling_steps == steps


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
