"""The segment command, run as a user runs it: sets in, scores, tables and a page out."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import run_here
from tests.support.datasets.segmentation import SIDE, compare, compared, read_results, short, write_sets
from tests.support.folders import read_tree
from tests.support.phantoms.phantom import write_phantoms
from training import generate, segment
from training.command_line.options import read_toml
from training.segmentation.networks.registry import NETWORKS
from training.segmentation.plan import (
    PlanError,
    evenly_chosen,
    experiments_of_table,
)
from training.segmentation.training_sets import same_image
from training.statistics.crossed import crossed_mean

TABLES = sorted((Path(segment.__file__).parent / "recipes" / "tables").glob("*.toml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    output = tmp_path_factory.mktemp("finished") / "out"
    compared(data, output, "--times", 1, 2, "--synthetic-only", "--cases", 2)
    return output


def test_every_variant_is_scored_on_every_test_set(finished: Path) -> None:
    (group,) = read_results(finished)["results"]
    assert [entry["name"] for entry in group["variants"]] == ["real", "real+1x", "real+2x", "synthetic"]
    assert [(e["real_pairs"], e["synthetic_pairs"]) for e in group["variants"]] == [
        (6, 0),
        (6, 6),
        (6, 12),
        (0, 12),
    ]
    assert group["test_images"] == {"near": 5, "far": 2}
    assert group["seeds"] == [42, 43]
    for entry in group["variants"]:
        assert set(entry["scores"]) == {"near", "far", "all images"}
        for measures in entry["scores"].values():
            assert 0 <= measures["iou"]["mean"] <= measures["dice"]["mean"] <= 1
            assert len(measures["dice"]["seeds"]) == 2
    assert "vs_baseline" not in group["variants"][0]
    assert all("vs_baseline" in entry for entry in group["variants"][1:])


def test_the_summary_is_that_of_the_images_in_the_csv(finished: Path) -> None:
    with (finished / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 2 * 7
    (group,) = read_results(finished)["results"]
    for entry in group["variants"]:
        of_variant = [row for row in rows if row["variant"] == entry["name"]]
        for measure in ("dice", "iou"):
            for test in ("near", "far", "all images"):
                chosen = [float(row[measure]) for row in of_variant if test in (row["test"], "all images")]
                assert entry["scores"][test][measure]["mean"] == pytest.approx(np.mean(chosen), abs=1e-5)
    of_baseline = {
        (r["seed"], r["stem"], r["test"]): float(r["dice"]) for r in rows if r["variant"] == "real"
    }
    other = {(r["seed"], r["stem"], r["test"]): float(r["dice"]) for r in rows if r["variant"] == "real+1x"}
    seeds = sorted({key[0] for key in of_baseline})
    differences = np.array(
        [[other[key] - of_baseline[key] for key in of_baseline if key[0] == seed] for seed in seeds]
    )
    assert differences.shape == (2, 7)  # every image of both test sets, each of the same weight
    expected = crossed_mean([differences], [1.0])
    found = group["variants"][1]["vs_baseline"]["dice"]
    assert found["difference"] == pytest.approx(differences.mean(), abs=1e-5)
    assert found["p_value"] == pytest.approx(expected.p_value(), abs=1e-3)
    assert (found["low"], found["high"]) == pytest.approx(
        (expected.estimate(-1, 1).low, expected.estimate(-1, 1).high), abs=1e-3
    )


def test_the_page_shows_tables_and_cases_and_loads_nothing(finished: Path) -> None:
    page = (finished / "segmentation.html").read_text("utf-8")
    assert page.count("<table") == 3  # mDice, mIoU, settings
    assert page.count("data:image/png") == 4  # one picture of each variant's cases
    assert "http" not in page and "<script" not in page
    table = (finished / "segmentation.md").read_text("utf-8")
    assert "| real+1x | 6 + 6 |" in table
    with Image.open(finished / "runs/data/small-unet/real+1x/seed-42.png") as image:
        assert image.size == (2 * SIDE + 2, 4 * SIDE + 6)


def test_all_variants_are_trained_with_the_same_budget(finished: Path) -> None:
    records = [json.loads(path.read_text("utf-8"))["record"] for path in finished.rglob("seed-*.json")]
    assert len(records) == 8
    for name in ("steps", "batch_size", "learning_rate", "resolution", "optimiser", "weight_decay"):
        assert len({record[name] for record in records}) == 1


def test_steps_are_the_networks_epochs_on_the_baseline(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_epoch = replace(NETWORKS["small-unet"], epochs=1)
    monkeypatch.setitem(NETWORKS, "small-unet", one_epoch)
    flags = ("--real", data / "real", "--synthetic", data / "synthetic", "--test", data / "near")
    numbers = ("--batch-size", 4, "--resolution", SIDE, "--seeds", 1, "--network", "small-unet")
    outcome = run_here(segment.main, *flags, *numbers, "--output", tmp_path / "out")
    assert outcome.status == 0, outcome.errors
    assert read_results(tmp_path / "out")["results"][0]["fit"]["steps"] == 2  # 6 pairs in batches of 4


def test_the_same_command_gives_the_same_scores(finished: Path, data: Path, tmp_path: Path) -> None:
    compared(data, tmp_path / "again", "--times", 1, 2, "--synthetic-only", "--cases", 2)
    assert (tmp_path / "again/scores.csv").read_bytes() == (finished / "scores.csv").read_bytes()


def test_resume_does_only_what_is_missing(finished: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    runs = output / "runs/data/small-unet"
    missing = runs / "real+1x/seed-43.json"
    missing.unlink()
    (output / "results.json").unlink()
    before = read_tree(runs)
    refusal = compare(data, output, "--times", 1, 2, "--synthetic-only", "--cases", 2).refusal
    assert refusal.startswith(f"{output}: not empty")

    outcome = compare(data, output, "--times", 1, 2, "--synthetic-only", "--cases", 2, "--resume")
    assert outcome.status == 0, outcome.errors
    assert "1 of 8 runs to do" in outcome.output
    after = read_tree(runs)
    assert {name for name in after if after[name] != before.get(name)} == {"real+1x/seed-43.json"}
    assert (output / "scores.csv").read_bytes() == (finished / "scores.csv").read_bytes()

    more = compare(data, output, "--times", 1, "--seeds", 3, "--cases", 2, "--resume")
    assert "2 of 6 runs to do" in more.output  # another seed and fewer variants are no other settings


def test_images_are_compared_with_themselves_whatever_the_order_of_the_test_sets(
    finished: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    for file in (output / "runs").rglob("real/seed-*.json"):  # as if made with the sets the other way round
        found = json.loads(file.read_text("utf-8"))
        found["scores"] = {name: rows[::-1] for name, rows in reversed(found["scores"].items())}
        file.write_text(json.dumps(found))
    outcome = compare(data, output, "--times", 1, 2, "--synthetic-only", "--cases", 2, "--resume")
    assert outcome.status == 0, outcome.errors
    assert (output / "scores.csv").read_bytes() == (finished / "scores.csv").read_bytes()
    assert read_results(output)["results"] == read_results(finished)["results"]


def test_resume_with_other_settings_or_data_is_refused(finished: Path, data: Path, tmp_path: Path) -> None:
    refusal = compare(data, finished, "--times", 1, "--steps", 3, "--resume").refusal
    assert "steps was 2 and is now 3" in refusal
    changed = tmp_path / "data"
    shutil.copytree(data, changed)
    with Image.open(changed / "near/images/phantom_00200.png") as image:
        pixels = np.asarray(image).copy()
    pixels[:8] = 0
    Image.fromarray(pixels).save(changed / "near/images/phantom_00200.png")
    refusal = compare(changed, finished, "--times", 1, "--resume").refusal
    assert "test_data.near was" in refusal


def test_networks_can_be_kept(data: Path, tmp_path: Path) -> None:
    compared(data, tmp_path / "out", "--times", 1, "--seeds", 1, "--save-networks", "--cases", 0)
    kept = tmp_path / "out/runs/data/small-unet/real+1x"
    assert {path.name for path in kept.iterdir()} == {"seed-42.json", "seed-42.safetensors"}


def test_each_train_set_is_a_variant(data: Path, tmp_path: Path) -> None:
    both = f"both={data / 'real'},{data / 'synthetic'}"
    test = f"phantoms={data / 'near'}"
    flags = ("--train", data / "real", both, "--test", test, "--seeds", 1)
    outcome = run_here(segment.main, *short(tmp_path / "out"), *flags)
    assert outcome.status == 0, outcome.errors
    (group,) = read_results(tmp_path / "out")["results"]
    assert [(entry["name"], entry["real_pairs"]) for entry in group["variants"]] == [
        ("real", 6),
        ("both", 18),
    ]
    assert group["test_images"] == {"phantoms": 5}
    table = (tmp_path / "out/segmentation.md").read_text("utf-8")
    assert table.count("] (this run only) |  |") == 2  # Dice and IoU of one seed, without p
    assert "phantoms" not in table  # with a single set its column would repeat that of all images


def test_variants_of_the_same_pairs_differ_in_nothing(data: Path, tmp_path: Path) -> None:
    """Weights, order and augmentation depend on the seed alone."""
    sets = ("--train", f"one={data / 'real'}", f"other={data / 'real'}", "--test", data / "near")
    outcome = run_here(segment.main, *short(tmp_path / "out"), *sets)
    assert outcome.status == 0, outcome.errors
    (group,) = read_results(tmp_path / "out")["results"]
    one, other = group["variants"]
    assert one["scores"] == other["scores"]
    assert one["scores"]["near"]["dice"]["sd"] > 0  # between seeds
    assert other["vs_baseline"]["dice"] == {
        "difference": 0.0,
        **dict.fromkeys(("low", "high", "p_value")),
        "runs": 2,
    }


def test_synthetic_pairs_are_taken_evenly_from_the_folder() -> None:
    assert evenly_chosen(12, 3) == [0, 4, 8]
    assert evenly_chosen(12, 12) == list(range(12))
    assert evenly_chosen(5, 2) == [0, 2]
    assert evenly_chosen(8, 0) == []


def test_a_test_image_that_is_trained_on_is_refused(data: Path, tmp_path: Path) -> None:
    leaking = tmp_path / "leaking"
    for name in ("images", "masks"):
        (leaking / name).mkdir(parents=True)
        shutil.copy(data / f"real/{name}/phantom_00003.png", leaking / name / "renamed.png")
    refusal = compare(data, tmp_path / "out", "--test", leaking).refusal
    assert refusal.startswith(f"{leaking / 'images/renamed.png'}: this image of the test set 'leaking'")
    assert "phantom_00003.png" in refusal
    assert not (tmp_path / "out").exists()
    assert same_image([data / "real/images/phantom_00000.png"], []) is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--times", 3), "variant 'real+3x': 3 x 6 real pairs needs 18 synthetic pairs, but there are 12"),
        (("--times", 0), "variant 'real+0x': times must be above 0"),
        (("--network", "vnet"), "network 'vnet' is not known; take one of"),
        (("--network", "small-unet", "small-unet"), "two networks are called"),
        (("--test", "elsewhere"), "elsewhere: does not exist; check the path"),
        (("--test", "near=somewhere"), "two folders are called 'near'"),
        (("--test", "=x"), "'=x': write NAME=DIR, or DIR alone"),
        (("--train", "x"), "--train excludes --real and --synthetic"),
        (("--seeds", 0), "--seeds must be at least 1, not 0"),
        (("--steps", 0), "--steps must be at least 1, not 0"),
        (("--resolution", 50), "--resolution must be a multiple of 32 from 64 on, not 50"),
        (("--cases", -1), "--cases must be 0 or more, not -1"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    flags: tuple[object, ...], message: str, data: Path, tmp_path: Path
) -> None:
    refusal = compare(data, tmp_path / "out", *flags).refusal
    assert message in refusal
    assert not (tmp_path / "out").exists()


def test_sets_that_are_not_named_are_asked_for(data: Path, tmp_path: Path) -> None:
    refusal = run_here(segment.main, "--output", tmp_path / "out", "--test", data / "near").refusal
    assert refusal.startswith("--train or --real is needed")
    flags = ("--output", tmp_path / "out", "--network", "small-unet", "--real", data / "real")
    assert run_here(segment.main, *flags).refusal.startswith("no test set is named")
    flags = (*flags, "--test", data / "near", "--times", "1")
    assert run_here(segment.main, *flags).refusal.startswith("--times and --synthetic-only need --synthetic")


@pytest.mark.parametrize(
    "flags", [("--real-share", 0.5), ("--then-real", 1), ("--times", 2), ("--synthetic-only",)]
)
def test_a_mixture_is_refused_where_no_variant_has_one(
    flags: tuple[object, ...], data: Path, tmp_path: Path
) -> None:
    sets = ("--train", f"both={data / 'real'},{data / 'synthetic'}", "--test", data / "near")
    words = ("--network", "small-unet", "--steps", 2, "--output", tmp_path / "out", *sets, *flags)
    refusal = run_here(segment.main, *words).refusal
    assert str(flags[0]) in refusal and "--real and --synthetic" in refusal
    assert not (tmp_path / "out").exists()


def test_a_broken_pair_is_refused_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(data / "real", broken)
    mask = broken / "masks/phantom_00004.png"
    mask.write_bytes(mask.read_bytes()[:100])
    refusal = run_here(
        segment.main, "--real", broken, "--test", data / "near", *short(tmp_path / "out")
    ).refusal
    assert str(mask) in refusal and "may be damaged" in refusal
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_the_papers_tables_name_known_networks_and_comparable_variants(path: Path) -> None:
    table = read_toml(path)
    experiments = experiments_of_table(table, path)
    assert experiments
    for experiment in experiments:
        assert experiment.networks and set(experiment.networks) <= set(NETWORKS)
        assert experiment.tests
        baseline, *others = experiment.variants
        assert baseline.real and not baseline.synthetic
        assert others
        for variant in others:
            python, option, command, *words = shlex.split(variant.made_by)
            assert (python, option, command) == ("python", "-m", "training.generate")
            settings = generate.parse(words)[1]
            assert [Path(settings.output).relative_to("ROOT")] == list(variant.synthetic)
            assert str(settings.checkpoint).startswith("runs/")
        folders = [
            *experiment.tests.values(),
            *(f for v in experiment.variants for f in (*v.real, *v.synthetic)),
        ]
        assert not any(folder.is_absolute() for folder in folders)


def test_there_is_a_table_for_each_of_the_papers() -> None:
    assert [path.stem for path in TABLES] == ["figure7", "table2", "table3", "table4", "table5", "table6"]


def test_a_table_runs_by_one_command(tmp_path: Path) -> None:
    (path,) = [path for path in TABLES if path.stem == "figure7"]
    root = tmp_path / "root"
    write_phantoms(root / "polyps/train", 3, size=SIDE)
    for number, name in enumerate(("CVC-300", "CVC-ClinicDB", "CVC-ColonDB", "ETIS-LaribPolypDB", "Kvasir")):
        write_phantoms(root / "polyps/test" / name, 2, size=SIDE, first=100 + 10 * number)
    flags = ("--config", path, "--data", root, *short(tmp_path / "out"), "--seeds", 1, "--no-pretrained")
    refusal = run_here(segment.main, *flags).refusal
    assert refusal.startswith(f"{root / 'synthetic/polyps_4x'}: does not exist; it is made by: python -m")

    write_phantoms(root / "synthetic/polyps_4x", 12, size=SIDE, first=200)
    outcome = run_here(segment.main, *flags)
    assert outcome.status == 0, outcome.errors
    (group,) = read_results(tmp_path / "out")["results"]
    assert [entry["synthetic_pairs"] for entry in group["variants"]] == [0, 3, 6, 9, 12]
    assert group["curves"] == [["real + 1x", "real + 2x", "real + 3x", "real + 4x"]]
    page = (tmp_path / "out/segmentation.html").read_text("utf-8")
    assert "the gain shrinks at 4x" in page
    assert page.count("<svg") == 2  # mDice and mIoU against the number of synthetic pairs
    assert "synthetic pairs beside 3 real ones" in page

    refusal = run_here(segment.main, *flags, "--real", root).refusal
    assert "names the sets; leave out --train, --real, --synthetic and --test" in refusal


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[experiment]]\nname = 'a'\ntests = 1", "unknown key 'tests'"),
        ("[[experiment]]\nname = 'a'\ntest = 'x'", "test must be a table of folders by name"),
        ("[[experiment]]\ntest = {}", "lacks name"),
        ("[[variant]]\nname = 'a'\nreal = 'x'", "real = 'x' does not fit"),
        ("[[variant]]\nname = 'a'\nreal = [1]", "real must be a list of texts"),
        ("[[variant]]\nname = 'a'\ntimes = true", "times = True does not fit"),
        ("variant = 3", "write variant as [[variant]]"),
        ("experiment = []\nvariant = []", "put test and variant into the [[experiment]]s"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_the_key(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(PlanError) as refusal:
        experiments_of_table(read_toml(path), path)
    assert message in str(refusal.value) and str(path) in str(refusal.value)


def test_an_unknown_setting_of_a_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.toml"
    path.write_text("epochs = 3", "utf-8")
    refusal = run_here(segment.main, "--config", path, "--output", tmp_path / "out").refusal
    assert "unknown setting 'epochs'" in refusal
