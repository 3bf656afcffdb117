"""The base of an ablation may be a name on the Hugging Face hub, as training.train takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.many_pairs import SIDE
from siamese_core.diffusers_backend import base_model
from tests.support.commands import run_here
from training import ablate

PLAN = f"""
[train]
prompt = "a phantom"
resolution = {SIDE}
steps = 1
batch_size = 2
sample_every = 0
threads = 1
[[variant]]
name = "one"
paint = false
[[variant]]
name = "other"
train = {{ branches = "mask" }}
paint = false
"""


def run(plan: Path, pairs: Path, base: str, output: Path, *more: object) -> Any:
    return run_here(ablate.main, plan, "--pairs", pairs, "--base", base, "--output", output, *more)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN, "utf-8")
    return path


def test_all_variants_start_from_the_copy_of_a_hub_name_which_is_fetched_once(
    plan: Path, pairs: Path, base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(name: str, **_: Any) -> str:
        asked.append(name)
        return str(base_folder)

    monkeypatch.setattr(base_model, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    outcome = run(plan, pairs, "someone/some-model", tmp_path / "hub")
    assert outcome.status == 0, outcome.errors
    assert asked == ["someone/some-model"]
    assert json.loads((tmp_path / "hub" / "plan.json").read_text("utf-8"))["base"] == "someone/some-model"

    local = run(plan, pairs, str(base_folder), tmp_path / "local")
    assert local.status == 0, local.errors
    updates = [
        json.loads((tmp_path / name / "ablation.json").read_text("utf-8"))["updates"]
        for name in ("hub", "local")
    ]
    assert updates[0] == updates[1]

    assert run(plan, pairs, "someone/some-model", tmp_path / "hub", "--resume").status == 0


def test_a_name_that_the_hub_does_not_give_is_refused_before_anything_is_written(
    plan: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(base_model, "snapshot_download", download)
    refusal = run(plan, pairs, "someone/some-model", tmp_path / "out").refusal
    assert refusal.startswith("someone/some-model: no file or folder of that name here")
    assert not (tmp_path / "out").exists()
