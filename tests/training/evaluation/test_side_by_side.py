"""Several methods in one evaluation: each has the figures of its own run, and one report shows all."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from siamese_core.masks.foreground_rule import PLAIN_MASKS, ForegroundRule
from tests.support.commands import Outcome, run_here
from tests.support.folders import read_tree
from tests.support.phantoms.phantom import write_phantoms
from training import evaluate, rate
from training.evaluation import measuring
from training.evaluation.cases import CasePictures
from training.evaluation.measuring import Measured, prepared
from training.evaluation.metrics import all_metrics, features
from training.evaluation.metrics.all_metrics import Results
from training.evaluation.metrics.image_sets import find_images
from training.evaluation.metrics.projection import project_together
from training.evaluation.side_by_side import same_masks

SIDE, COUNT = 64, 8
SHADES = {"dark": 2, "darker": 4, "näher": 1}


class Means(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``real`` pairs, and a folder of the same masks for each of SHADES, its images darkened so much."""
    root = tmp_path_factory.mktemp("sets")
    write_phantoms(root / "real", COUNT, size=SIDE, seed=1)
    write_phantoms(root / "test", 3, size=SIDE, seed=2)
    for name, shade in SHADES.items():
        shutil.copytree(root / "real", root / name)
        for path in (root / name / "images").iterdir():
            noise = np.random.default_rng(len(name)).integers(0, 9, (SIDE, SIDE, 3))
            Image.fromarray((np.asarray(Image.open(path)) // shade // 2 + noise).astype(np.uint8)).save(path)
    torch.jit.script(Means()).save(str(root / "means.pt"))
    return root


def run(sets: Path, output: Path, synthetic: list[str], *more: object) -> Outcome:
    return run_here(
        evaluate.main, "--real", sets / "real", "--synthetic", *synthetic, "--output", output,
        "--features", sets / "means.pt", "--resolution", SIDE, "--bootstrap", 100, *more,
    )  # fmt: skip


def judged(sets: Path) -> tuple[object, ...]:
    judge = ("--segmenter-train", sets / "real", "--real-test", sets / "test")
    return (*judge, "--segmenter-steps", 3, "--segmenter-resolution", SIDE)


def record_of(output: Path) -> dict[str, Any]:
    return dict(json.loads((output / "evaluation.json").read_text("utf-8")))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, sets: Path) -> Path:
    output = tmp_path_factory.mktemp("compared") / "out"
    outcome = run(sets, output, [f"{name}={sets / name}" for name in SHADES], *judged(sets))
    assert outcome.status == 0, outcome.errors
    return output


@pytest.mark.parametrize("name", SHADES)
def test_the_figures_of_a_method_are_those_of_its_own_run(
    name: str, compared: Path, sets: Path, tmp_path: Path
) -> None:
    outcome = run(sets, tmp_path / "alone", [str(sets / name)], *judged(sets))
    assert outcome.status == 0, outcome.errors
    alone, together = record_of(tmp_path / "alone"), record_of(compared)

    method = together["methods"][name]
    assert method["metrics"] == alone["metrics"]
    assert method["left_out"] == alone["left_out"]
    assert method["synthetic"] == alone["synthetic"]
    own = record_of(compared / "methods" / name)
    assert (own["metrics"], own["images"]) == (alone["metrics"], alone["images"])
    assert {"lpips[alex]", "cosine[means]"} <= {*own["metrics"], *own["left_out"]}


def test_the_record_names_methods_in_their_order_and_files_lie_where_it_says(compared: Path) -> None:
    record = record_of(compared)
    assert list(record) == ["real", "methods", "notes", "settings", "seconds"]
    assert list(record["methods"]) == list(SHADES)
    assert record["settings"]["synthetic"] == [
        f"{name}={one['synthetic']['folder']}" for name, one in record["methods"].items()
    ]
    assert record["methods"]["dark"]["metrics"]["cosine[means]"]["real"] == COUNT
    assert {path.name for path in compared.iterdir()} == {
        "evaluation.json", "report.html", "projection.png", "same_masks.png", "methods"
    }  # fmt: skip
    assert {path.name for path in (compared / "methods").iterdir()} == set(SHADES)
    assert (compared / "methods" / "dark" / "report.html").is_file()


def test_the_table_has_a_row_a_method_with_values_and_intervals(compared: Path) -> None:
    page = (compared / "report.html").read_text("utf-8")
    rows = [
        re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) for row in re.findall(r"<tr>(.*?)</tr>", page, re.S)
    ]
    table = {row[0]: row[1:] for row in rows if row and row[0] in SHADES}
    header = next(
        re.findall(r"<th[^>]*>(.*?)</th>", row)
        for row in re.findall(r"<tr>(.*?)</tr>", page)
        if ">method<" in row
    )
    assert list(table) == list(SHADES)
    place = header.index("mask adherence [small-unet] ↑") - 1
    for name, cells in table.items():
        assert len(cells) == len(header) - 1
        found = record_of(compared)["methods"][name]["metrics"]["adherence[small-unet]"]
        value, interval = cells[place].split("\n")
        assert float(value) == pytest.approx(found["value"], abs=5e-3)
        assert [float(end) for end in interval.split(" … ")] == pytest.approx(
            [found["low"], found["high"]], abs=5e-3
        )
    assert "KID [means] ↓" in header
    assert '="http' not in page and "<script" not in page  # a sentence may tell where weights come from


def test_what_concerns_the_real_images_is_computed_once(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: Counter[str] = Counter()
    extract, train, dice = features.extract, all_metrics.train_judge, all_metrics.dice_of_pairs

    def counting_extract(extractor: Any, paths: Any, **how: Any) -> Any:
        called[f"{extractor.name} of {Path(paths[0]).parents[1].name}"] += 1
        return extract(extractor, paths, **how)

    def counting_train(*arguments: Any, **how: Any) -> Any:
        called["judge"] += 1
        return train(*arguments, **how)

    def counting_dice(judge: Any, pairs: Any, **how: Any) -> Any:
        called[f"dice of {pairs[0].image.parents[1].name}"] += 1
        return dice(judge, pairs, **how)

    monkeypatch.setattr(measuring, "extract", counting_extract)
    monkeypatch.setattr(all_metrics, "train_judge", counting_train)
    monkeypatch.setattr(all_metrics, "dice_of_pairs", counting_dice)
    monkeypatch.setattr(evaluate, "write_evaluation", lambda *_: None)
    outcome = run(sets, tmp_path / "out", [f"a={sets / 'dark'}", f"b={sets / 'darker'}"], *judged(sets))
    assert outcome.status == 0, outcome.errors
    spaces = {f"{space} of {name}": 1 for space in ("means", "pixels") for name in ("real", "dark", "darker")}
    assert called == {**spaces, "judge": 1, "dice of test": 1, "dice of dark": 1, "dice of darker": 1}


def test_one_plane_holds_the_images_of_all_methods() -> None:
    random = np.random.default_rng(0)
    real, near, far = (random.normal(shift, 1, (30, 5)).astype(np.float32) for shift in (0, 0, 40))
    panels = project_together(real, {"near": near, "far": far}, seed=3)
    assert [panel.name for panel in panels] == ["near", "far"]
    assert np.array_equal(panels[0].real, panels[1].real)
    centre = panels[0].real.mean(axis=0)
    spread = np.linalg.norm(panels[0].real - centre, axis=1).mean()
    distances = [np.linalg.norm(panel.synthetic.mean(axis=0) - centre) / spread for panel in panels]
    assert distances[0] < 1 < 2 < distances[1]


def shown(sets: Path, names: list[str]) -> dict[str, tuple[Measured, CasePictures]]:
    real = find_images(sets / "real")
    found = {}
    for name in names:
        images = find_images(sets / name)
        measured = prepared(images, real, Results(100, 0), PLAIN_MASKS)
        found[name] = measured, CasePictures(real, images, ForegroundRule())
    return found


def test_the_gallery_shows_the_same_masks_under_each_method(sets: Path) -> None:
    real = find_images(sets / "real")
    gallery = same_masks(shown(sets, [*SHADES]), real.stems)
    assert len(gallery.strips) == 6
    for strip in gallery.strips:
        assert [label for label, _ in strip.pictures] == ["mask", "real", *SHADES]
        tiles = dict(strip.pictures)
        brightness = {name: float(tiles[name].mean()) for name in ("real", *SHADES)}
        assert brightness["real"] > brightness["näher"] > brightness["dark"] > brightness["darker"]
        with Image.open(sets / "real" / "masks" / f"{strip.name}.png") as mask:
            assert float((tiles["mask"] > 0).mean()) == pytest.approx(np.asarray(mask).mean() / 255, abs=0.02)


def test_masks_that_differ_under_one_name_are_not_shown_as_the_same(sets: Path, tmp_path: Path) -> None:
    shutil.copytree(sets / "real", tmp_path / "real")
    for name in ("dark", "darker"):
        shutil.copytree(sets / name, tmp_path / name)
    moved = sorted((tmp_path / "darker" / "masks").iterdir())[0]
    Image.fromarray(np.roll(np.asarray(Image.open(moved)), 20, axis=1)).save(moved)
    gallery = same_masks(shown(tmp_path, ["dark", "darker"]), find_images(tmp_path / "real").stems)
    assert [strip.name for strip in gallery.strips] and moved.stem not in {s.name for s in gallery.strips}


def rating_study(sets: Path, root: Path, *names: str) -> Path:
    """Ratings of the real images and of ``names`` by three raters, scored by the command."""
    page = root / "rating.html"
    sources = [word for name in names for word in ("--synthetic", f"{name}={sets / name}")]
    flags = ("--real", sets / "real", *sources, "--output", page, "--count", 4)
    assert run_here(rate.main, "page", *flags).status == 0
    key = json.loads((root / "rating.html.key.json").read_text("utf-8"))
    csvs = []
    for number, rater in enumerate(("A", "B", "C")):
        lines = ["set,rater,item,rating,seconds,order"]
        for order, (item, what) in enumerate(key["items"].items(), start=1):
            rating = {"real": 4, "dark": 3}.get(what["source"], 1) + (order + number) % 2
            lines.append(f"{key['set']},{rater},{item},{rating},2,{order}")
        csvs.append(root / f"{rater}.csv")
        csvs[-1].write_text("\n".join(lines) + "\n", "utf-8")
    scored = run_here(
        rate.main, "score", *csvs, "--key", root / "rating.html.key.json", "--output", root / "study"
    )
    assert scored.status == 0, scored.errors
    return root / "study"


def test_raters_means_stand_beside_the_metrics_of_the_methods_they_rated(sets: Path, tmp_path: Path) -> None:
    study = rating_study(sets, tmp_path, "dark", "näher")
    names = [f"{name}={sets / name}" for name in ("dark", "darker")]
    outcome = run(sets, tmp_path / "out", names, "--rating-study", study)
    assert outcome.status == 0, outcome.errors

    assert f"note: {study} rates näher too" in outcome.output
    scored = {
        one["source"]: one for one in json.loads((study / "ratings.json").read_text("utf-8"))["sources"]
    }
    ratings = record_of(tmp_path / "out")["ratings"]
    assert list(ratings) == ["real", "dark"]
    for source, rated in ratings.items():
        assert rated["mean_opinion_score"] == scored[source]["mean_opinion_score"]
        assert set(rated["raters"]) == {"A", "B", "C"}
        assert np.mean(list(rated["raters"].values())) == pytest.approx(rated["mean_opinion_score"]["value"])
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert (
        "raters&#x27; mean, 1 to 5" in page and f"{scored['dark']['mean_opinion_score']['value']:.2f}" in page
    )


def test_a_study_that_fits_no_method_or_is_none_is_refused_before_work(sets: Path, tmp_path: Path) -> None:
    study = rating_study(sets, tmp_path, "dark")
    (tmp_path / "other.json").write_text("{}", "utf-8")

    def refusal(synthetic: str, path: Path) -> str:
        refused = run(sets, tmp_path / "out", [synthetic], "--rating-study", path).refusal
        assert not (tmp_path / "out").exists()
        return refused

    assert refusal(f"mine={sets / 'dark'}", study) == (
        f"{study}: rates dark, none of mine; call the methods as the study does"
    )
    assert "--synthetic NAME=DIR" in refusal(str(sets / "dark"), study)
    assert "cannot be read" in refusal(f"dark={sets / 'dark'}", tmp_path / "nowhere")
    assert "no results of a rating study" in refusal(f"dark={sets / 'dark'}", tmp_path / "other.json")


def test_a_study_of_other_images_is_told(sets: Path, tmp_path: Path) -> None:
    study = rating_study(sets, tmp_path, "dark")
    outcome = run(sets, tmp_path / "out", [f"dark={sets / 'darker'}"], "--rating-study", study)
    assert f"the raters saw images of {sets / 'dark'} for dark, not of {sets / 'darker'}" in outcome.output


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "a"), "two folders are called 'a'"),
        (("a", "A"), "two methods are called 'a' and 'A'"),
        (("real", "b"), "so the real images are called"),
    ],
)
def test_methods_that_cannot_be_told_apart_are_refused(
    names: tuple[str, str], message: str, sets: Path, tmp_path: Path
) -> None:
    given = [f"{name}={sets / folder}" for name, folder in zip(names, ("dark", "darker"), strict=True)]
    assert message in run(sets, tmp_path / "out", given).refusal
    assert not (tmp_path / "out").exists()


def test_methods_without_masks_are_compared_by_what_needs_none(sets: Path, tmp_path: Path) -> None:
    given = [f"{name}={sets / name / 'images'}" for name in ("dark", "darker")]
    outcome = run(sets, tmp_path / "out", given)
    assert outcome.status == 0, outcome.errors
    methods = record_of(tmp_path / "out")["methods"]
    assert all("kid[means]" in one["metrics"] for one in methods.values())
    assert all("holds no masks" in one["left_out"]["cosine[means]"] for one in methods.values())
    assert not (tmp_path / "out" / "same_masks.png").exists()


def test_a_settings_file_may_name_one_folder_or_several_methods(sets: Path, tmp_path: Path) -> None:
    settings = tmp_path / "evaluation.toml"
    for text, keys in (
        (f"synthetic = {json.dumps(str(sets / 'dark'))}", {"synthetic"}),
        (f"synthetic = {json.dumps([f'{name}={sets / name}' for name in ('dark', 'darker')])}", {"methods"}),
    ):
        settings.write_text(text, "utf-8")
        output = tmp_path / f"out-{min(keys)}"
        flags = (
            "--real",
            sets / "real",
            "--output",
            output,
            "--features",
            sets / "means.pt",
            "--bootstrap",
            100,
        )
        outcome = run_here(evaluate.main, "--config", settings, *flags)
        assert outcome.status == 0, outcome.errors
        assert keys <= set(record_of(output))


def test_a_single_folder_has_the_files_and_keys_that_it_always_had(sets: Path, tmp_path: Path) -> None:
    outcome = run(sets, tmp_path / "out", [f"{sets / 'dark'}/"])
    assert outcome.status == 0, outcome.errors
    record = record_of(tmp_path / "out")
    assert list(record) == [
        "real",
        "synthetic",
        "metrics",
        "left_out",
        "notes",
        "images",
        "settings",
        "seconds",
    ]
    assert list(record["settings"]) == [
        "mask_threshold", "mask_label", "mask_from", "mask_colour", "invert", "real", "synthetic", "output",
        "features", "inception_weights", "clip", "alexnet_weights", "download", "segmenter_train",
        "real_test", "segmenter_steps", "segmenter_resolution", "resolution", "bootstrap", "batch_size",
        "seed", "skip_corrupt", "threads",
    ]  # fmt: skip
    assert record["settings"]["synthetic"] == str(sets / "dark")
    assert record["notes"][:2] == [
        f"{COUNT} real images, 64 x 64 pixels.",
        f"{COUNT} synthetic images, 64 x 64 pixels.",
    ]
    assert set(read_tree(tmp_path / "out")) == {
        "evaluation.json", "report.html",
        *(f"{name}.png" for name in ("contact_sheet", "cases_by_realism", "memorised_pairs")),
        "projection.png", "nearest_distances.png",
    }  # fmt: skip
