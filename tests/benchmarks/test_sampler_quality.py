"""The benchmark of samplers, at its smallest: random networks, few images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import sampler_quality
from benchmarks.sampler_quality import Solver
from training.segmentation.judge import SegmenterSettings

SOLVERS = (Solver("ddim", 2), Solver("dpmpp-2m", 3), Solver("dpmpp-2m-sde", 2))


def test_every_sampler_has_a_row_of_figures_and_a_place_in_the_picture(
    full_model: Path,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampler_quality, "SOLVERS", SOLVERS)
    monkeypatch.setattr(sampler_quality, "_EXACT_STEPS", 4)
    monkeypatch.setattr(sampler_quality, "_RESAMPLES", 10)
    monkeypatch.setattr(sampler_quality, "SegmenterSettings", lambda: SegmenterSettings(steps=1))
    places = ["--model", full_model, "--masks", pairs, "--train", pairs, "--plot", tmp_path / "plot.png"]
    numbers = ["--trajectories", 2, "--images", 2, "--repeats", 1, "--threads", 1, "--guidance", 3]

    sampler_quality.main([str(word) for word in (*places, *numbers, "--json")])

    rows = json.loads(capsys.readouterr().out)
    assert [row["solver"] for row in rows] == ["ddim 2", "dpmpp-2m 3", "dpmpp-2m-sde 2"]
    assert all(row["distance"]["3"] > 0 for row in rows[:2])
    assert rows[2]["distance"] == {"3": None}
    assert rows[0]["adherence_difference"][0] == 0.0
    assert len(sampler_quality.as_markdown(rows).splitlines()) == 5
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.size[0] > 200
