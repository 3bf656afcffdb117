"""The segment command with rules about how real and synthetic pairs share the steps."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_core.settings import SettingError
from tests.support.commands import run_here
from tests.support.datasets.segmentation import compare, compared, read_results, short, write_sets
from training import segment
from training.segmentation.plan import Plan, PlanError, check_plan, experiments_of_table, under


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("data"))


def test_mixed_variants_get_the_asked_mixing_and_the_baseline_stays(data: Path, tmp_path: Path) -> None:
    compared(data, tmp_path / "plain", "--times", 2, "--seeds", 1)
    compared(data, tmp_path / "out", "--times", 2, "--seeds", 1, "--real-share", 0.5, "--then-real", 1)
    (group,) = read_results(tmp_path / "out")["results"]
    assert [(e.get("real_share"), e.get("then_real")) for e in group["variants"]] == [(None, None), (0.5, 1)]
    table = (tmp_path / "out/segmentation.md").read_text("utf-8")
    assert "| real+2x | 6 + 12 (50% real in a batch, last 1 steps real) |" in table
    runs = "runs/data/small-unet"
    old, new = (
        {
            name: json.loads((output / runs / name / "seed-42.json").read_text("utf-8"))
            for name in ("real", "real+2x")
        }
        for output in (tmp_path / "plain", tmp_path / "out")
    )
    assert new["real"]["record"] == old["real"]["record"]
    assert new["real"]["scores"] == old["real"]["scores"]
    assert new["real+2x"]["record"] == old["real+2x"]["record"] | {"real_share": 0.5, "then_real": 1}
    assert new["real+2x"]["loss"] != old["real+2x"]["loss"]


def test_a_run_is_not_resumed_with_its_pairs_in_another_order(data: Path, tmp_path: Path) -> None:
    """Which of the synthetic pairs are used, and in which batches, depends on the order of their list."""
    listed = shutil.copytree(data / "synthetic", tmp_path / "synthetic")
    entries = [
        {"source": f"masks/{path.name}", "target": f"images/{path.name}"}
        for path in sorted((listed / "images").iterdir())
    ]
    write_entries(listed, entries)
    flags = ("--synthetic", listed, "--times", 1, "--seeds", 1)
    words = ("--real", data / "real", "--test", data / "near", *short(tmp_path / "out", *flags))
    assert run_here(segment.main, *words).status == 0
    write_entries(listed, entries[::-1])
    assert "pair_order was" in run_here(segment.main, *words, "--resume").refusal

    run = tmp_path / "out/runs/data/small-unet/real+1x/seed-42.json"
    begun = json.loads(run.read_text("utf-8"))
    del begun["record"]["pair_order"]  # as begun by an earlier version
    run.write_text(json.dumps(begun), "utf-8")
    assert run_here(segment.main, *words, "--resume").status == 0


def write_entries(folder: Path, entries: list[dict[str, str]]) -> None:
    (folder / "prompt.json").write_text("".join(json.dumps(entry) + "\n" for entry in entries), "utf-8")


def test_folders_whose_images_are_scaled_unlike_are_told(data: Path, tmp_path: Path) -> None:
    for name, white in (("real", 4000), ("near", 1500)):
        shutil.copytree(data / name, tmp_path / name)
        for path in (tmp_path / name / "images").iterdir():
            grey = np.asarray(Image.open(path).convert("L"), np.uint16)
            Image.fromarray((grey * np.uint16(white // 255)).astype(np.uint16)).save(path)
    sets = ("--real", tmp_path / "real", "--test", tmp_path / "near")
    outcome = run_here(segment.main, *sets, *short(tmp_path / "out", "--seeds", 1, "--cases", 0))
    assert outcome.status == 0, outcome.errors
    assert "the same value becomes brighter where white is lower" in outcome.output


def test_no_test_set_is_called_as_all_of_them_together(data: Path, tmp_path: Path) -> None:
    sets = ("--real", data / "real", "--test", f"all images={data / 'near'}")
    refusal = run_here(segment.main, *sets, *short(tmp_path / "out")).refusal
    assert "a test set is called 'all images'" in refusal


def test_a_plan_says_the_mixing_of_each_variant(data: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        """
        networks = ["small-unet"]
        real_share = 0.25
        [test]
        near = "near"
        [[variant]]
        name = "real"
        real = ["real"]
        [[variant]]
        name = "own"
        real = ["real"]
        synthetic = ["synthetic"]
        then_real = 2
        [[variant]]
        name = "common"
        real = ["real"]
        synthetic = ["synthetic"]
        """,
        "utf-8",
    )
    words = ("--config", plan, "--data", data, *short(tmp_path / "out"), "--seeds", 1)
    outcome = run_here(segment.main, *words)
    assert outcome.status == 0, outcome.errors
    (group,) = read_results(tmp_path / "out")["results"]
    found = {e["name"]: (e.get("real_share"), e.get("then_real")) for e in group["variants"]}
    assert found == {"real": (None, None), "own": (None, 2), "common": (0.25, None)}


def test_a_mixing_that_does_not_fit_is_refused(data: Path, tmp_path: Path) -> None:
    refusal = compare(data, tmp_path / "out", "--then-real", 3).refusal
    assert "then_real = 3 exceeds the 2 steps of a run" in refusal
    assert not (tmp_path / "out").exists()
    table = {
        "test": {"near": "near"},
        "variant": [{"name": "a", "real": ["real"], "synthetic": ["synthetic"], "real_share": 1.5}],
    }
    with pytest.raises(SettingError, match=r"variant 'a': real_share must lie in 0..1, not 1.5"):
        experiments_of_table(table, Path("plan.toml"), ["small-unet"])
    table["variant"] = [{"name": "a", "real": [str(data / "real")], "then_real": 1}]
    plan = Plan("", "", experiments_of_table(table, Path("plan.toml"), ["small-unet"]))
    with pytest.raises(PlanError, match="variant 'a': real_share and then_real need both"):
        check_plan(replace(plan, experiments=(under(data, plan.experiments[0]),)), ["small-unet"])
