"""The low-data study on a tiny plan: prepared, drawn, trained, compared, and resumed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import low_data
from benchmarks.low_data_table import DrawScores, as_markdown, table_of
from benchmarks.many_pairs import SIDE
from siamese_core.pairs.pair_files import Pair, find_pairs
from tests.support.commands import run_here
from tests.support.phantoms.phantom import write_phantoms
from training.preparation.splits import SplitError, draw_labels, image_of, split_by_images

PLAN = f"""
title = "Tiny"
[train]
prompt = "a phantom"
resolution = {SIDE}
steps = 2
batch_size = 2
sample_every = 0
threads = 1
[copies]
copies = 2
[generate]
steps = 2
threads = 1
[select]
resolution = {SIDE}
steps = 2
batch_size = 2
min_dice = 0.0
max_distance = 1000.0
[evaluate]
features = "efficientnet-lite0"
bootstrap = 100
segmenter_steps = 2
segmenter_resolution = 64
[segment]
networks = ["small-unet"]
resolution = {SIDE}
steps = 2
batch_size = 2
real_share = 0.5
cases = 0
[[variant]]
name = "Siamese"
"""


def study_words(folder: Path, base: Path, plan: str) -> tuple[object, ...]:
    """Flags of a study of four labels of five phantoms, each in two pieces."""
    source = folder / "source"
    write_phantoms(source, 10, size=SIDE)
    for path in sorted(source.glob("*/*.png")):
        number = int(path.stem.rpartition("_")[2])
        path.rename(path.with_name(f"image{number // 2}_{number % 2}.png"))
    for listing in source.glob("*.json*"):
        listing.unlink()
    (folder / "plan.toml").write_text(plan, "utf-8")
    places = ("--source", source, "--output", folder / "study", "--base", base)
    return (*places, "--plan", folder / "plan.toml", "--pairs", 4, "--test-share", 0.2)


def test_a_study_runs_from_the_dataset_to_the_table_and_goes_on(tmp_path: Path, single_base: Path) -> None:
    words = study_words(tmp_path, single_base, PLAN)
    output = tmp_path / "study"

    first = run_here(low_data.main, *words, "--draws", 1)
    assert first.status == 0, first.errors
    sets = {name: find_pairs(output / "data" / name) for name in ("pool", "test")}
    assert [len(pairs) for pairs in sets.values()] == [8, 2]
    images = {name: {image_of(pair.stem) for pair in pairs} for name, pairs in sets.items()}
    assert not images["pool"] & images["test"]
    labels = find_pairs(output / "labels-4/draw-1/labels")
    assert len(find_pairs(output / "labels-4/draw-1/copies/train")) == 8
    assert len({image_of(pair.stem) for pair in labels}) == len(labels) == 4
    rows = json.loads((output / "study.json").read_text("utf-8"))
    assert [row["variant"] for row in rows] == ["real", "real + Siamese"]
    assert rows[1]["vs_real"]["difference"] == pytest.approx(rows[1]["mean"] - rows[0]["mean"])

    again = run_here(low_data.main, *words, "--draws", 1)
    assert again.status == 0, again.errors
    assert "training" not in [line.rpartition(": ")[2] for line in again.output.splitlines()]
    other = run_here(low_data.main, *words, "--draws", 1, "--seed", 7).refusal
    assert "seed was 42 and is now 7" in other
    assert "data.crop was not set and is now 32" in run_here(low_data.main, *words, "--crop", 32).refusal
    write_phantoms(tmp_path / "another", 10, size=SIDE)
    elsewhere = run_here(low_data.main, *words, "--source", tmp_path / "another").refusal
    assert "data.source was" in elsewhere
    record = output / "plan.json"
    found = json.loads(record.read_text("utf-8"))
    del found["data"]  # as in studies begun earlier
    record.write_text(json.dumps(found), "utf-8")
    older = run_here(low_data.main, *words, "--draws", 1)
    assert older.status == 0, older.errors


def test_draws_can_be_made_apart_and_without_selection_or_metrics(tmp_path: Path, single_base: Path) -> None:
    plan = PLAN[: PLAN.index("[copies]")] + "[generate]\nsteps = 2\n" + PLAN[PLAN.index("[segment]") :]
    words = study_words(tmp_path, single_base, plan)

    second = run_here(low_data.main, *words, "--draws", 2, "--first-draw", 2)
    assert second.status == 0, second.errors
    assert not (tmp_path / "study/study.json").exists()
    record = json.loads((tmp_path / "study/plan.json").read_text("utf-8"))
    assert record["stages"].keys() == {"base", "select", "train", "generate", "evaluate", "segment"}
    draws = tmp_path / "study/labels-4"
    assert [path.name for path in draws.iterdir()] == ["draw-2"]
    assert {path.name for path in (draws / "draw-2/Siamese").iterdir()} == {"training", "masks", "random"}

    both = run_here(low_data.main, *words, "--draws", 2)
    assert both.status == 0, both.errors
    assert not [line for line in both.output.splitlines() if "draw-2" in line and line.endswith("training")]
    rows = json.loads((tmp_path / "study/study.json").read_text("utf-8"))
    assert [(row["draws"], row["adherence"]) for row in rows] == [(2, None), (2, None)]
    assert "dherence" not in (tmp_path / "study/study.md").read_text("utf-8")
    refused = run_here(low_data.main, *words, "--draws", 1, "--first-draw", 2)
    assert "--first-draw 2 must lie in 1..1" in refused.errors


@pytest.mark.parametrize("line", ['networks = ["small-unet", "unet"]', 'networks = ["unet"]\nseeds = 2'])
def test_several_networks_or_seeds_of_a_draw_are_refused(line: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.replace('networks = ["small-unet"]', line), "utf-8")
    words = ("--source", tmp_path, "--output", tmp_path / "study", "--plan", plan)
    assert "one network, and one seed" in run_here(low_data.main, *words).refusal


def test_test_sets_with_equal_file_names_are_all_used(tmp_path: Path, single_base: Path) -> None:
    source, study = tmp_path / "source", tmp_path / "study"
    for place, (name, count) in enumerate(
        (("TrainDataset", 4), ("TestDataset/of_A", 2), ("TestDataset/of_B", 3))
    ):
        write_phantoms(tmp_path / "made", count, seed=place, size=SIDE)
        for number, image in enumerate(sorted((tmp_path / "made/images").iterdir())):
            for part, folder in (("images", "images"), ("masks", "masks")):
                (source / name / folder).mkdir(parents=True, exist_ok=True)
                (tmp_path / "made" / part / image.name).rename(source / name / folder / f"{number}.png")
        shutil.rmtree(tmp_path / "made")
    (tmp_path / "plan.toml").write_text(PLAN, "utf-8")
    words = ("--source", source, "--output", study, "--base", single_base, "--plan", tmp_path / "plan.toml")
    low_data.Study(low_data._parse([str(word) for word in words])).prepare()
    stems = [pair.stem for pair in find_pairs(study / "data/test")]
    assert stems == ["test-of-A-0", "test-of-A-1", "test-of-B-0", "test-of-B-1", "test-of-B-2"]
    assert len({image_of(stem) for stem in stems}) == 5


def pairs_of(images: dict[str, str], pieces: int = 3) -> list[Pair]:
    return [
        Pair(f"{image}_{k}", Path(image), Path(image), prompt)
        for image, prompt in images.items()
        for k in range(pieces)
    ]


IMAGES = {**{f"dark{k}": "dark" for k in range(20)}, **{f"pale{k}": "pale" for k in range(5)}}


def test_all_pieces_of_an_image_are_on_one_side_and_all_kinds_on_both() -> None:
    sets = split_by_images(pairs_of(IMAGES), 0.4, seed=1)
    images = {name: {image_of(pair.stem) for pair in pairs} for name, pairs in sets.items()}
    assert not images["train"] & images["test"]
    assert sum(map(len, sets.values())) == 75
    assert sorted(image[:4] for image in images["test"]) == [*8 * ["dark"], *2 * ["pale"]]
    assert split_by_images(pairs_of(IMAGES)[::-1], 0.4, seed=1) == sets
    with pytest.raises(SplitError, match="test share of 0"):
        split_by_images(pairs_of(IMAGES), 0.0, seed=1)


def test_images_of_different_sets_are_told_apart() -> None:
    stems = ("a1b2_3", "a1b2_4", "test_0001", "validation_0001", "test_0001_2")
    assert [image_of(stem) for stem in stems] == ["a1b2", "a1b2", "test_0001", "validation_0001", "test_0001"]


def test_labels_are_of_different_images_and_have_all_kinds_in_their_shares() -> None:
    drawn = draw_labels(pairs_of(IMAGES), 10, seed=2)
    assert len({image_of(pair.stem) for pair in drawn}) == 10
    assert [sum(pair.prompt == kind for pair in drawn) for kind in ("dark", "pale")] == [8, 2]
    assert {pair.prompt for pair in draw_labels(pairs_of(IMAGES), 2, seed=2)} == {"dark", "pale"}
    assert draw_labels(pairs_of(IMAGES), 10, seed=3) != drawn
    with pytest.raises(SplitError, match="26 labels of 25 images"):
        draw_labels(pairs_of(IMAGES), 26, seed=2)


def test_differences_hold_over_draws_and_images() -> None:
    random = np.random.default_rng(0)
    real = random.uniform(0.5, 0.9, (6, 40))
    draws = [
        DrawScores(
            8,
            k,
            [f"image{number}" for number in range(40)],
            {
                "real": real[k],
                "real + mask only": real[k] + 0.01,
                "real + Siamese": real[k] + 0.03 + 0.002 * k,
            },
            {"Siamese": {"adherence": {"value": 0.8 + 0.01 * k}}},
        )
        for k in range(6)
    ]
    rows = table_of(draws)
    siamese = rows[2]
    assert siamese.vs_real is not None and siamese.vs_previous is not None
    assert siamese.vs_real.difference == pytest.approx(0.035)
    assert siamese.vs_previous.difference == pytest.approx(0.025)
    assert siamese.vs_real.low is not None and siamese.vs_real.low > 0.02
    assert siamese.adherence == pytest.approx(0.825)
    assert (rows[0].vs_real, rows[1].vs_previous, siamese.draws, siamese.images) == (None, None, 6, 40)
    assert "| 8 | real + Siamese | 6 x 40 |" in as_markdown("Title", rows)
    cut = table_of([replace(draw, images=[f"image{number // 4}" for number in range(40)]) for draw in draws])
    assert "| 8 | real + Siamese | 6 x 10 (40 pieces) |" in as_markdown("Title", cut)
    assert cut[2].mean == pytest.approx(siamese.mean)
    assert as_markdown("Title", rows).startswith("# Title")


def test_the_plan_that_ships_is_read() -> None:
    args = low_data._parse(["--source", "here", "--output", "there"])
    study = low_data.Study(args)
    assert [variant.name for variant in study.plan.variants] == ["mask only", "Siamese"]
    assert study.plan.stages["segment"]["real_share"] == 0.5
