"""The ablation runner on a tiny base: whole, interrupted, and misused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.many_pairs import SIDE
from siamese_core.pairs.pair_files import find_pairs
from tests.support.commands import Outcome, run_here
from tests.support.folders import read_tree
from tests.support.phantoms.phantom import write_phantoms
from training import ablate

PLAN = f"""
title = "Two and one"
[train]
prompt = "a phantom"
resolution = {SIDE}
steps = 2
batch_size = 2
sample_every = 0
threads = 1
[generate]
steps = 2
threads = 1
[evaluate]
features = "efficientnet-lite0"
bootstrap = 100
segmenter_steps = 2
segmenter_resolution = 64
[segment]
networks = ["small-unet"]
resolution = 64
steps = 2
batch_size = 2
seeds = 1
[[variant]]
name = "mask only"
train = {{ branches = "mask", hint_block = "sparse" }}
[[variant]]
name = "Siamese"
[[variant]]
name = "image only"
train = {{ branches = "image" }}
paint = false
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.toml"
    path.write_text(PLAN, "utf-8")
    return path


@pytest.fixture(scope="module")
def test_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held_out") / "phantoms"
    write_phantoms(folder, 3, seed=9, size=SIDE)
    return folder


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, plan: Path, pairs: Path, test_pairs: Path, single_base: Path
) -> Path:
    """The output of one run of the plan."""
    output = tmp_path_factory.mktemp("ablation") / "out"
    outcome = run(plan, pairs, test_pairs, single_base, output)
    assert outcome.status == 0, outcome.errors
    return output


def run(plan: Path, pairs: Path, test: Path, base: Path, output: Path, *more: object) -> Outcome:
    places = ("--pairs", pairs, "--test", f"held-out={test}", "--base", base, "--output", output)
    return run_here(ablate.main, plan, *places, *more)


def test_one_command_gives_metrics_segmentation_updates_and_the_same_masks_side_by_side(
    finished: Path, pairs: Path
) -> None:
    found = json.loads((finished / "ablation.json").read_text("utf-8"))

    assert list(found["metrics"]) == ["mask only", "Siamese"]
    for metrics in found["metrics"].values():
        assert {"kid[efficientnet-lite0]", "adherence[small-unet]"} <= set(metrics)
    entries = found["segmentation"][0]["variants"]
    variants = [(entry["name"], entry["real_pairs"], entry["synthetic_pairs"]) for entry in entries]
    assert variants == [("real", 6, 0), ("real + mask only", 6, 6), ("real + Siamese", 6, 6)]
    assert found["updates"]["variants"] == ["mask only", "Siamese", "image only"]
    with Image.open(finished / "variants.png") as sheet:
        # mask, real and two variants beside each other, one of six masks in a row
        assert sheet.size == (4 * (SIDE + 2) - 2, 6 * (SIDE + 2) - 2)
    page = (finished / "ablation.html").read_text("utf-8")
    assert "The same masks" in page
    assert "cosine with image only" in page
    for variant in ("mask only", "Siamese"):
        assert len(find_pairs(finished / variant / "pairs")) == len(find_pairs(pairs))
    assert not (finished / "image only" / "pairs").exists()


def test_the_parts_of_the_siamese_model_move_and_the_frozen_ones_do_not(finished: Path) -> None:
    groups = json.loads((finished / "ablation.json").read_text("utf-8"))["updates"]["groups"]

    assert [group["group"] for group in groups] == ["control encoder", "zero convolutions", "decoder"]
    for group in groups:
        assert all(size > 0 for size in group["sizes"])
        assert all(group["cosines"][i][i] == pytest.approx(1) for i in range(3))


def test_an_interrupted_run_goes_on_with_what_is_missing(
    finished: Path, plan: Path, pairs: Path, test_pairs: Path, single_base: Path, tmp_path: Path
) -> None:
    output = shutil.copytree(finished, tmp_path / "out")
    painted = read_tree(output / "Siamese" / "pairs")
    trained = (output / "Siamese" / "training" / "model.safetensors").stat().st_mtime_ns
    # As if the process had died while the second variant's images were generated.
    unfinished = (output / "Siamese" / "pairs").rename(output / "Siamese" / "unfinished-pairs")
    shutil.rmtree(output / "Siamese" / "evaluation")
    shutil.rmtree(output / "segmentation")
    (unfinished / "manifest.jsonl").unlink()
    written = {path.name: path.stat().st_mtime_ns for path in (unfinished / "images").iterdir()}

    outcome = run(plan, pairs, test_pairs, single_base, output, "--resume")

    assert outcome.status == 0, outcome.errors
    assert not unfinished.exists()
    images = (output / "Siamese" / "pairs" / "images").iterdir()
    assert {path.name: path.stat().st_mtime_ns for path in images} == written
    assert read_tree(output / "Siamese" / "pairs") == painted
    assert (output / "Siamese" / "training" / "model.safetensors").stat().st_mtime_ns == trained
    assert (output / "ablation.md").read_text("utf-8") == (finished / "ablation.md").read_text("utf-8")


def test_a_stage_that_cannot_be_resumed_is_made_anew(
    finished: Path, plan: Path, pairs: Path, test_pairs: Path, single_base: Path, tmp_path: Path
) -> None:
    output = shutil.copytree(finished, tmp_path / "out")
    unfinished = (output / "Siamese" / "pairs").rename(output / "Siamese" / "unfinished-pairs")
    settings = unfinished / ".run" / "settings.json"
    found = json.loads(settings.read_text("utf-8"))
    settings.write_text(json.dumps(found).replace('"threads": 1', '"threads": 3'), "utf-8")
    assert settings.read_text("utf-8") != json.dumps(found)

    outcome = run(plan, pairs, test_pairs, single_base, output, "--resume")

    assert outcome.status == 0, outcome.errors
    assert "threads was 3 and is now 1" in outcome.output and "it is made anew" in outcome.output
    assert len(find_pairs(output / "Siamese" / "pairs")) == len(find_pairs(pairs))


def test_pairs_without_prompts_are_compared_like_others(
    pairs: Path, test_pairs: Path, single_base: Path, tmp_path: Path
) -> None:
    bare = []
    for folder in (pairs, test_pairs):
        bare.append(tmp_path / folder.name / folder.parent.name)
        for part in ("images", "masks"):
            shutil.copytree(folder / part, bare[-1] / part)
    plan = tmp_path / "plan.toml"
    text = PLAN.replace('prompt = "a phantom"\n', "").replace('name = "mask only"', 'name = "mask"')
    plan.write_text(text[: text.index('[[variant]]\nname = "Siamese"')], "utf-8")

    outcome = run(plan, bare[0], bare[1], single_base, tmp_path / "out")

    assert outcome.status == 0, outcome.errors
    assert (tmp_path / "out/variants.png").exists()


def test_another_plan_in_the_same_folder_is_refused_with_the_difference(
    finished: Path, plan: Path, pairs: Path, test_pairs: Path, single_base: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(PLAN.replace("[generate]\nsteps = 2", "[generate]\nsteps = 4"), "utf-8")

    message = run(other, pairs, test_pairs, single_base, finished, "--resume").refusal

    assert "generate.steps was 2 and is now 4" in message


def test_other_weights_in_the_bases_place_are_refused(
    finished: Path, plan: Path, pairs: Path, test_pairs: Path, single_base: Path, tmp_path: Path
) -> None:
    output = shutil.copytree(finished, tmp_path / "out")
    record = json.loads((output / "plan.json").read_text("utf-8"))
    assert record["test_order"] == ["held-out"] and record["pair_prompts"]
    record["base_digests"]["base"] = "a" * 64
    (output / "plan.json").write_text(json.dumps(record), "utf-8")
    refusal = run(plan, pairs, test_pairs, single_base, output, "--resume").refusal
    assert "the ablation belongs to another run: base_digests.base was" in refusal

    for name in ("base_digests", "test_order", "pair_prompts"):  # as begun by an earlier version
        del record[name]
    (output / "plan.json").write_text(json.dumps(record), "utf-8")
    assert run(plan, pairs, test_pairs, single_base, output, "--resume").status == 0


def test_label_maps_are_shown_beside_the_variants(
    finished: Path, pairs: Path, plan: Path, tmp_path: Path
) -> None:
    labelled = shutil.copytree(pairs, tmp_path / "labelled")
    for path in (labelled / "masks").iterdir():
        values = (np.asarray(Image.open(path)) > 127) * np.uint8(2)
        values[0, :3] = 1, 5, 7
        Image.fromarray(values).save(path)
    shown = ablate._sheet(labelled, [finished / "Siamese" / "pairs"])
    assert np.array_equal(shown, ablate._sheet(pairs, [finished / "Siamese" / "pairs"]))


def test_a_folder_with_files_is_never_written_into_unasked(
    plan: Path, pairs: Path, test_pairs: Path, single_base: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")

    assert "not empty" in run(plan, pairs, test_pairs, single_base, tmp_path).refusal
    assert "no plan.json" in run(plan, pairs, test_pairs, single_base, tmp_path, "--resume").refusal
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no variant"),
        ("[[variant]]\nname = 'a'\ncolour = 1", "unknown key 'colour'"),
        ("[[variant]]\ntrain = {}", "needs a name"),
        ("[[variant]]\nname = 'a'\n[[variant]]\nname = 'A'", "two variants are called 'A'"),
        ("[[variant]]\nname = 'a'\npaint = 1", "paint = 1 must be true or false"),
        ("[train]\npairs = 'x'\n[[variant]]\nname = 'a'", "train.pairs is set by training.ablate itself"),
        ("train = 3\n[[variant]]\nname = 'a'", "must be a table of settings of training.train"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_before_anything_runs(
    text: str, message: str, pairs: Path, test_pairs: Path, single_base: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(text, "utf-8")

    refusal = run(bad, pairs, test_pairs, single_base, tmp_path / "out").refusal

    assert message in refusal
    assert str(bad) in refusal
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[segment]", "[segment]\nnetwrok = 1"), "unrecognized arguments: --netwrok 1"),
        (("[generate]\nsteps = 2", "[generate]\nsteps = 'few'"), "invalid int value: 'few'"),
        (("[generate]\nsteps = 2", "[generate]\nsampler = 'euler'"), "invalid choice: 'euler'"),
        (('["small-unet"]', '["u-net"]'), "network 'u-net' is not known; take some of"),
    ],
)
def test_settings_of_a_late_stage_are_refused_before_the_first_one(
    change: tuple[str, str],
    message: str,
    pairs: Path,
    test_pairs: Path,
    single_base: Path,
    tmp_path: Path,
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(PLAN.replace(*change), "utf-8")

    outcome = run(bad, pairs, test_pairs, single_base, tmp_path / "out")

    assert outcome.status == 2
    assert message in outcome.errors
    assert not (tmp_path / "out").exists()


def test_a_base_that_is_not_there_leaves_no_folder_behind(
    plan: Path, pairs: Path, test_pairs: Path, tmp_path: Path
) -> None:
    refusal = run(plan, pairs, test_pairs, tmp_path / "none", tmp_path / "out").refusal

    assert refusal.startswith(f"{tmp_path / 'none'}: no such base")
    assert not (tmp_path / "out").exists()
