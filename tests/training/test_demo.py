"""The demo end to end at its smallest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from siamese_core import shipped
from siamese_core.errors import UserError
from training import demo

SMALLEST = [
    *("--pairs", "4"),
    *("--held-out", "3"),
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
    assert summary["held_out"] == 3 and summary["pairs"] == 3 + 4
    assert summary["seconds"] > 0
    assert 0.0 <= summary["mask_adherence_dice"] <= 1.0
    assert [found["held_out"] for found in summary["by_prompt"].values()] == [2, 1]
    assert summary["settings"]["steps"] == 2
    kept = {path.name: path.read_bytes() for path in (output / "real/held_out/masks").iterdir()}
    assert kept == {name: (shipped.HELD_OUT / "masks" / name).read_bytes() for name in kept}
    assert {path.name for path in (output / "pairs/images").iterdir()} == set(kept)
    assert len(list((output / "random_pairs/images").iterdir())) == 4
    page = (output / "report.html").read_text("utf-8")
    assert page.count("nearest real image,") == 7
    assert Image.open(output / "contact_sheet.png").size == (3 * 128 + 2 * 2, 5 * 128 + 4 * 2)
    demo._prepare(output)
    assert list(output.iterdir()) == []


@pytest.mark.parametrize("flag", ["--pairs", "--held-out"])
def test_more_pairs_than_ship_are_refused(flag: str) -> None:
    with pytest.raises(UserError, match=rf"{flag} must lie in \d\.\.24, not 25"):
        demo._parse([flag, "25"])


@pytest.mark.parametrize(
    ("flags", "steps"),
    [([], 15), (["--sampler", "ddim"], 25), (["--sampler", "ddim", "--sampling-steps", "8"], 8)],
)
def test_a_sampler_brings_its_own_number_of_steps(flags: list[str], steps: int) -> None:
    assert demo._parse(flags)[1].sampling_steps == steps


def test_the_demo_replaces_an_earlier_demo_and_nothing_else(tmp_path: Path) -> None:
    own, foreign = tmp_path / "demo", tmp_path / "thesis"
    (own / "real").mkdir(parents=True)
    (own / "report.html").write_text("old")
    demo._note_files(own)
    (foreign / "real").mkdir(parents=True)
    (foreign / "chapter.txt").write_text("years of work")

    demo._prepare(own)
    assert list(own.iterdir()) == []
    with pytest.raises(demo.OptionError, match=r"chapter\.txt, which is on no list of an earlier demo"):
        demo._prepare(foreign)
    assert (foreign / "chapter.txt").read_text() == "years of work"
