"""The evaluate command, run as a user runs it: two folders in, numbers and a report out."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import alexnet

from siamese_core.files import file_digest
from siamese_core.masks.foreground_rule import PLAIN_MASKS
from tests.support.commands import Outcome, run_here
from tests.support.phantoms.phantom import write_phantoms
from training import evaluate
from training.evaluation.measuring import prepared
from training.evaluation.metrics.all_metrics import Results
from training.evaluation.metrics.image_sets import find_images, groups_by_mask, match_by_mask

SIDE = 64


class Means(nn.Module):
    """Twelve features: the mean colour of each quarter of the image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("extractor") / "means.pt"
    torch.jit.script(Means()).save(str(path))
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "pairs"
    write_phantoms(folder, 12, size=SIDE, seed=1)
    return folder


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held_out") / "pairs"
    write_phantoms(folder, 12, size=SIDE, seed=2)
    return folder


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory, real: Path) -> Path:
    """Two darker images for each of the first five masks of ``real``, called as generate calls them."""
    folder = tmp_path_factory.mktemp("synthetic") / "pairs"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for mask in sorted((real / "masks").iterdir())[:5]:
        image = np.asarray(Image.open(real / "images" / mask.name))
        for variant in range(2):
            name = f"{mask.stem}_{variant}.png"
            Image.fromarray(image // (2 + variant)).save(folder / "images" / name)
            shutil.copy(mask, folder / "masks" / name)
    return folder


@pytest.fixture(scope="module")
def alexnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(alexnet(weights=None).state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def no_cached_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares a test of the numbers the seconds that the pictures take."""
    monkeypatch.setattr(evaluate, "write_evaluation", lambda *_: None)


def run(real: Path, synthetic: Path, output: Path, *more: object) -> Outcome:
    usual = ("--real", real, "--synthetic", synthetic, "--output", output, "--resolution", SIDE)
    return run_here(evaluate.main, *usual, "--bootstrap", 100, *more)


def evaluated(*arguments: Any) -> dict[str, Any]:
    outcome = run(*arguments)
    assert outcome.status == 0, outcome.errors
    return dict(json.loads((arguments[2] / "evaluation.json").read_text("utf-8")))


@pytest.fixture(scope="module")
def full(
    tmp_path_factory: pytest.TempPathFactory,
    real: Path,
    held_out: Path,
    synthetic: Path,
    extractor: Path,
    alexnet_file: Path,
) -> Path:
    """The results of a run with everything."""
    output = tmp_path_factory.mktemp("full") / "out"
    evaluated(
        real, synthetic, output, "--features", extractor, "--alexnet-weights", alexnet_file,
        "--segmenter-train", real, "--real-test", held_out,
        "--segmenter-steps", 3, "--segmenter-resolution", 32,
    )  # fmt: skip
    return output


def test_every_metric_has_its_extractor_its_interval_and_its_numbers(full: Path) -> None:
    metrics = json.loads((full / "evaluation.json").read_text("utf-8"))["metrics"]
    of_features = ("fid", "kid", "cmmd", "precision", "recall", "cosine", "diversity-cosine", "close-share")
    assert set(metrics) == {
        *(f"{name}[means]" for name in (*of_features, "distance-ratio")),
        *("close-share[pixels]", "distance-ratio[pixels]", "lpips[alex]", "diversity-lpips[alex]"),
        *(f"{name}[small-unet]" for name in ("adherence", "real-dice", "adherence-ratio")),
    }
    for name, estimate in metrics.items():
        assert estimate["low"] <= estimate["high"], name
    assert (metrics["kid[means]"]["real"], metrics["kid[means]"]["synthetic"]) == (12, 10)
    assert (metrics["lpips[alex]"]["real"], metrics["lpips[alex]"]["synthetic"]) == (5, 10)
    assert metrics["diversity-lpips[alex]"]["note"] == "mean over 5 masks with several samples"


def test_each_synthetic_image_is_listed_with_its_own_figures(full: Path) -> None:
    images = json.loads((full / "evaluation.json").read_text("utf-8"))["images"]
    assert len(images) == 10
    for row in images:
        assert row["real"] == row["stem"][:-2]
        assert row["distance[means]"] >= 0 and 0 <= row["adherence"] <= 1


def test_the_report_is_one_page_with_its_pictures_beside_it(full: Path) -> None:
    names = {"contact_sheet", "cases_by_adherence", "cases_by_realism", "memorised_pairs"}
    names |= {"projection", "nearest_distances"}
    assert {path.name for path in full.iterdir()} == {
        "evaluation.json", "report.html", *(f"{name}.png" for name in names)
    }  # fmt: skip
    for name in names:
        with Image.open(full / f"{name}.png") as image:
            assert min(image.size) > 300
    page = (full / "report.html").read_text("utf-8")
    assert "http://" not in page and "https://" not in page and "<script" not in page
    for text in ("KID [means]", "mask adherence [small-unet]", "t-SNE", "Closest to real images"):
        assert text in page
    used = set(re.findall(r"(?:url\(|xlink:href=\")#(\w+)", page))
    assert used and all(page.count(f'id="{name}"') == 1 for name in used)


@pytest.mark.usefixtures("without_report")
def test_equal_runs_give_equal_numbers(full: Path, tmp_path: Path, real: Path, synthetic: Path) -> None:
    record = json.loads((full / "evaluation.json").read_text("utf-8"))
    again = evaluated(real, synthetic, tmp_path / "out", "--features", record["settings"]["features"])
    assert again["metrics"].items() <= record["metrics"].items()


@pytest.mark.usefixtures("without_report")
def test_a_copied_training_set_is_reported_as_memorised(real: Path, extractor: Path, tmp_path: Path) -> None:
    metrics = evaluated(real, real, tmp_path / "out", "--features", extractor)["metrics"]
    for space in ("means", "pixels"):
        assert metrics[f"close-share[{space}]"]["value"] == 1
        assert metrics[f"distance-ratio[{space}]"]["value"] == pytest.approx(0, abs=1e-5)
    assert metrics["fid[means]"]["value"] == pytest.approx(0, abs=1e-6)


def test_without_masks_the_rest_is_measured_and_the_reason_given(
    real: Path, synthetic: Path, extractor: Path, tmp_path: Path
) -> None:
    record = evaluated(real, synthetic / "images", tmp_path / "out", "--features", extractor)
    assert "kid[means]" in record["metrics"]
    for name in ("cosine[means]", "lpips[alex]", "diversity-cosine[means]"):
        assert "holds no masks" in record["left_out"][name]
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "Left out" in page and "holds no masks" in page


@pytest.mark.usefixtures("without_report")
def test_missing_lpips_weights_leave_lpips_out(
    real: Path, synthetic: Path, extractor: Path, tmp_path: Path
) -> None:
    record = evaluated(real, synthetic, tmp_path / "out", "--features", extractor)
    assert "--alexnet-weights" in record["left_out"]["lpips[alex]"]
    assert "cosine[means]" in record["metrics"]


def test_one_image_gives_what_one_image_can(
    real: Path, synthetic: Path, extractor: Path, tmp_path: Path
) -> None:
    single = tmp_path / "single"
    single.mkdir()
    shutil.copy(next((synthetic / "images").iterdir()), single)
    left_out = evaluated(real, single, tmp_path / "out", "--features", extractor)["left_out"]
    for name in ("fid", "kid", "cmmd"):
        assert "takes at least 2 images in each set; there are 1" in left_out[f"{name}[means]"]
    assert "at least 4" in left_out["precision[means]"]
    assert (tmp_path / "out" / "memorised_pairs.png").exists()

    left_out = evaluated(single, single, tmp_path / "both", "--features", extractor)["left_out"]
    assert "at least 2 real images" in left_out["close-share[pixels]"]


@pytest.mark.usefixtures("without_report")
def test_images_of_any_size_and_kind_are_compared(real: Path, extractor: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for i, path in enumerate(sorted((real / "images").iterdir())):
        with Image.open(path) as image:
            image.resize((40 + 7 * i, 90 - 4 * i)).convert("L" if i % 3 else "RGB").save(mixed / path.name)
    record = evaluated(real, mixed, tmp_path / "out", "--features", extractor)
    assert record["metrics"]["fid[means]"]["synthetic"] == 12
    assert "and 11 other sizes" in " ".join(record["notes"])


@pytest.mark.usefixtures("without_report")
def test_a_corrupt_file_in_the_middle_is_named_or_skipped(
    real: Path, synthetic: Path, extractor: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(synthetic, damaged)
    broken = sorted((damaged / "images").iterdir())[4]
    broken.write_bytes(broken.read_bytes()[:200])
    refusal = run(real, damaged, tmp_path / "out", "--features", extractor).refusal
    assert str(broken) in refusal and "--skip-corrupt" in refusal
    assert not (tmp_path / "out").exists()

    record = evaluated(real, damaged, tmp_path / "out", "--features", extractor, "--skip-corrupt")
    assert record["synthetic"]["images"] == 9
    assert any(note.startswith("Skipped: ") and broken.name in note for note in record["notes"])
    assert all(row["stem"] != broken.stem for row in record["images"])


def test_a_mask_of_another_size_than_its_image_is_named(
    real: Path, synthetic: Path, extractor: Path, tmp_path: Path
) -> None:
    odd = tmp_path / "odd"
    shutil.copytree(synthetic, odd)
    mask = sorted((odd / "masks").iterdir())[2]
    with Image.open(mask) as image:
        image.resize((30, 30)).save(mask)
    assert mask.name in run(real, odd, tmp_path / "out", "--features", extractor).refusal


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--bootstrap", 5), "--bootstrap must be at least 100"),
        (("--segmenter-resolution", 100), "--segmenter-resolution must be a positive multiple of 16"),
        (("--real-test", "."), "needs --segmenter-train"),
        (("--features", "resnet"), "resnet: no such extractor"),
        (("--features", "inception"), "--inception-weights"),
        (("--alexnet-weights", "nowhere.pth"), "nowhere.pth: no such file"),
        (("--clip", "nowhere"), "nowhere: no folder of a CLIP model"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(
    flags: tuple[object, ...], message: str, real: Path, synthetic: Path, tmp_path: Path
) -> None:
    assert message in run(real, synthetic, tmp_path / "out", *flags).refusal
    assert not (tmp_path / "out").exists()


def test_a_judge_is_not_tested_on_what_it_was_trained_on(
    real: Path, synthetic: Path, extractor: Path, tmp_path: Path
) -> None:
    test = shutil.copytree(real, tmp_path / "test")
    flags = ("--features", extractor, "--segmenter-train", real, "--real-test", test)
    assert "is also in --segmenter-train" in run(real, synthetic, tmp_path / "out", *flags).refusal


def test_a_judge_is_not_trained_on_masks_without_foreground(
    real: Path, synthetic: Path, extractor: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels"
    shutil.copytree(real, labels)
    for mask in (labels / "masks").iterdir():
        Image.new("L", Image.open(mask).size).save(mask)
    flags = ("--features", extractor, "--segmenter-train", labels)
    assert "All masks are empty" in run(real / "images", synthetic, tmp_path / "out", *flags).refusal


def test_adherence_needs_masks(real: Path, synthetic: Path, extractor: Path, tmp_path: Path) -> None:
    flags = ("--features", extractor, "--segmenter-train", real)
    assert "holds no masks" in run(real, synthetic / "images", tmp_path / "out", *flags).refusal


def test_results_are_never_written_over(real: Path, synthetic: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", "utf-8")
    assert "not empty" in run(real, synthetic, tmp_path).refusal


def test_masks_beside_their_images_are_not_counted_as_images(tmp_path: Path) -> None:
    for name in ("benign (1)", "benign (1)_mask", "benign (2)"):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{name}.png")
    notes: list[str] = []
    assert find_images(tmp_path, notes.append).stems == ["benign (1)", "benign (2)"]
    assert len(notes) == 1


def test_images_are_matched_by_mask_whatever_their_variant(real: Path, synthetic: Path) -> None:
    sets = find_images(synthetic), find_images(real)
    matches = match_by_mask(*sets)
    assert [sets[1].stems[match] for match in matches if match is not None] == [
        stem[:-2] for stem in sets[0].stems
    ]
    assert groups_by_mask(sets[0], matches) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


def test_a_manifest_says_which_mask_it_was_and_a_transformed_one_is_nobodys(
    real: Path, synthetic: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pairs"
    shutil.copytree(synthetic, folder)
    stems = find_images(real).stems
    records = [
        {
            "stem": stem,
            "mask_file": stems[11 - i] + (".png" if i else ""),  # Save Pairs records the stem
            "transform": {"flip": True} if i == 3 else None,
        }
        for i, stem in enumerate(find_images(folder).stems)
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    expected = [None if i == 3 else 11 - i for i in range(10)]
    assert match_by_mask(find_images(folder), find_images(real)) == expected


def test_masks_of_one_name_that_are_others_match_no_image(
    real: Path, synthetic: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(synthetic, tmp_path / "pairs")
    stems = find_images(real).stems
    records = []
    for i, stem in enumerate(find_images(folder).stems):
        digest = file_digest(real / "masks" / f"{stems[i]}.png") if i < 4 else "0" * 64
        records.append({"stem": stem, "mask_file": f"{stems[i]}.png", "mask_digest": digest})
    # Of the masks whose file is another one, the fifth is drawn alike and the others are not.
    mask = np.asarray(Image.open(real / "masks" / f"{stems[4]}.png"))
    for i, record in enumerate(records[4:]):
        Image.fromarray(mask if i == 0 else 255 - mask).save(folder / "masks" / f"{record['stem']}.png")
    (folder / "manifest.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    notes: list[str] = []
    matches = match_by_mask(find_images(folder), find_images(real), tell=notes.append)
    assert matches == [0, 1, 2, 3, 4, *5 * [None]]
    assert notes[0].startswith("5 masks of ")


def test_images_of_one_mask_belong_together_whether_or_not_the_mask_is_among_the_real_ones(
    real: Path, synthetic: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pairs"
    shutil.copytree(synthetic, folder)
    records = [
        {
            "stem": stem,
            "mask_file": f"elsewhere_{i // 3}.png",
            "transform": {"flip": True} if i == 4 else None,
        }
        for i, stem in enumerate(find_images(folder).stems)
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    expected = [0, 0, 0, 3, 4, 3, 6, 6, 6, 9]
    for other in (real, real / "images"):
        measured = prepared(find_images(folder), find_images(other), Results(100, 0), PLAIN_MASKS)
        assert isinstance(measured.matching, str)
        assert measured.groups is not None and measured.groups.tolist() == expected
