"""The select command, run as a user runs it: synthetic pairs in, those worth training on out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from siamese_core.pairs.manifest import PairRecord
from siamese_core.pairs.pair_files import find_pairs, load_pair
from siamese_core.pairs.pair_writer import PairWriter
from tests.support.commands import Outcome, run_here
from tests.support.folders import read_tree
from tests.support.phantoms.phantom import make_phantom, write_phantoms
from training import segment, select
from training.select import Judgement, SelectionError, rejections, relative_distances

SIDE = 64
STRANGE, UNFAITHFUL = "strange", "unfaithful"


class Extractor(torch.nn.Module):
    """A quick stand-in for a network of features: colours of a 4 x 4 grid."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("extractor") / "grid.pt"
    torch.jit.script(Extractor()).save(str(path))
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "pairs"
    write_phantoms(folder, 40, size=SIDE)
    return folder


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten phantoms as generated pairs; one more whose mask is elsewhere, one more of another world."""
    folder = tmp_path_factory.mktemp("synthetic") / "pairs"
    writer = PairWriter(folder)
    green = np.full((SIDE, SIDE, 3), (0, 255, 0), np.uint8)
    for index in range(12):
        phantom = make_phantom(5000 + index, SIDE)
        image, mask, stem = phantom.image, phantom.mask > 0, f"lesion{index}_ü"
        if index == 4:
            mask, stem = ~mask, UNFAITHFUL
        if index == 7:
            image, stem = green, STRANGE
        writer.write(
            PairRecord(index, stem, index, "m.png", "0", "a polyp", {"name": "ddim"}, "0", "run"), image, mask
        )
    return folder


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory, real: Path) -> Path:
    """A segmenter trained on the real pairs by the segment command."""
    root = tmp_path_factory.mktemp("judge")
    write_phantoms(root / "test", 2, size=SIDE, first=900)
    numbers = ("--steps", 80, "--batch-size", 8, "--resolution", SIDE, "--seeds", 1, "--cases", 0)
    sets = ("--real", real, "--test", root / "test", "--network", "small-unet")
    outcome = run_here(segment.main, *sets, *numbers, "--save-networks", "--output", root / "out")
    assert outcome.status == 0, outcome.errors
    return next((root / "out").rglob("*.safetensors"))


def run(synthetic: Path, real: Path, output: Path, *more: object) -> Outcome:
    return run_here(select.main, "--pairs", synthetic, "--real", real, "--output", output, *more)


def lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


def rejected(output: Path) -> dict[str, dict[str, str]]:
    with (output / "rejected.csv").open(encoding="utf-8") as file:
        return {row["stem"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def selected(
    tmp_path_factory: pytest.TempPathFactory, synthetic: Path, real: Path, judge: Path, extractor: Path
) -> tuple[Path, Outcome]:
    output = tmp_path_factory.mktemp("selected") / "out"
    flags = ("--segmenter", judge, "--extractor", extractor, "--min-dice", 0.5, "--max-distance", 2.5)
    outcome = run(synthetic, real, output, *flags, "--steps", 3)
    assert outcome.status == 0, outcome.errors
    return output, outcome


def test_pairs_that_fail_a_threshold_are_left_out_with_the_reason(selected: tuple[Path, Outcome]) -> None:
    output, outcome = selected
    assert "--steps not used: --segmenter gives a network that is trained already" in outcome.output
    reasons = rejected(output)
    assert {UNFAITHFUL, STRANGE} <= set(reasons)
    assert "agreement: Dice 0." in reasons[UNFAITHFUL]["reason"]
    assert "realism: distance " in reasons[STRANGE]["reason"]
    assert "realism" not in reasons[UNFAITHFUL]["reason"]
    assert float(reasons[UNFAITHFUL]["dice"]) < 0.5
    kept = {pair.stem for pair in find_pairs(output)}
    assert not kept & set(reasons) and len(kept) + len(reasons) == 12 and len(kept) >= 6
    assert f"{len(kept)} of 12 pairs kept in {output}" in outcome.output


def test_kept_pairs_are_copied_byte_for_byte_with_their_lines(
    selected: tuple[Path, Outcome], synthetic: Path
) -> None:
    output, _ = selected
    source, copied = read_tree(synthetic), read_tree(output)
    pixels = {name for name in copied if name.endswith(".png")}
    stems = {Path(name).stem for name in pixels}
    assert pixels == {f"{folder}/{stem}.png" for stem in stems for folder in ("images", "masks")}
    assert all(copied[name] == source[name] for name in pixels)
    for name, key in (("manifest.jsonl", "stem"), ("prompt.json", "source")):
        wanted = [line for line in lines(synthetic / name) if Path(json.loads(line)[key]).stem in stems]
        assert lines(output / name) == wanted and len(wanted) == len(stems)


def test_the_summary_tells_thresholds_and_distributions(selected: tuple[Path, Outcome]) -> None:
    output, outcome = selected
    summary: dict[str, Any] = json.loads((output / "selection.json").read_text("utf-8"))
    assert summary["kept"] == len(summary["pairs"]) == len(find_pairs(output))
    assert summary["rejected"] == len(rejected(output))
    assert summary["settings"]["min_dice"] == 0.5
    assert all(pair["dice"] >= 0.5 and pair["distance"] <= 2.5 for pair in summary["pairs"])
    assert summary["quantiles"]["distance among real images"]["50%"] == pytest.approx(1.0)
    for name in ("Dice", "distance", "distance among real images"):
        assert name in outcome.output


def test_thresholds_that_keep_nothing_are_refused_and_nothing_is_written(
    synthetic: Path, real: Path, judge: Path, extractor: Path, tmp_path: Path
) -> None:
    flags = ("--segmenter", judge, "--extractor", extractor, "--min-dice", 1)
    outcome = run(synthetic, real, tmp_path / "out", *flags)
    assert outcome.refusal.startswith(
        "no pair of 12 reaches Dice 1 within distance 1.3; the highest Dice is 0."
    )
    assert "distance among real images" in outcome.output  # the distribution, to choose by
    assert list(tmp_path.iterdir()) == []


def test_without_a_segmenter_one_is_trained_on_the_real_pairs(
    synthetic: Path, real: Path, extractor: Path, tmp_path: Path
) -> None:
    numbers = ("--steps", 2, "--batch-size", 2, "--resolution", SIDE, "--extractor", extractor)
    outcome = run(synthetic, real, tmp_path / "out", *numbers, "--min-dice", 0, "--max-distance", 1000)
    assert outcome.status == 0, outcome.errors
    assert len(find_pairs(tmp_path / "out")) == 12
    assert lines(tmp_path / "out/rejected.csv") == ["stem,dice,distance,reason"]


def test_the_judge_can_start_from_imagenet(
    synthetic: Path, real: Path, extractor: Path, tmp_path: Path
) -> None:
    numbers = ("--steps", 1, "--batch-size", 2, "--resolution", SIDE, "--extractor", extractor)
    flags = (*numbers, "--network", "lite-unet", "--min-dice", 0, "--max-distance", 1000)
    dice = {}
    for judge in ((), ("--pretrained",)):
        outcome = run(synthetic, real, tmp_path / "-".join(("out", *judge)), *flags, *judge)
        assert outcome.status == 0, outcome.errors
        record = json.loads((tmp_path / "-".join(("out", *judge)) / "selection.json").read_text("utf-8"))
        dice[judge] = record["quantiles"]["Dice"]

    assert dice[()] != dice[("--pretrained",)]


def test_pairs_in_other_layouts_are_read_too(
    real: Path, judge: Path, extractor: Path, tmp_path: Path
) -> None:
    """Masks named <stem>_mask, no prompt, no manifest."""
    source = tmp_path / "source"
    for name in ("images", "masks"):
        (source / name).mkdir(parents=True)
    for index in range(3):
        phantom = make_phantom(7000 + index, SIDE)
        Image.fromarray(phantom.image).save(source / f"images/p{index}.jpg", quality=95)
        Image.fromarray(phantom.mask).save(source / f"masks/p{index}_mask.png")
    flags = ("--segmenter", judge, "--extractor", extractor, "--min-dice", 0, "--max-distance", 1000)
    outcome = run(source, real, tmp_path / "out", *flags)
    assert outcome.status == 0, outcome.errors
    kept = find_pairs(tmp_path / "out", default_prompt="a polyp")
    assert [(pair.stem, pair.prompt) for pair in kept] == [(f"p{i}", "a polyp") for i in range(3)]
    for pair, original in zip(kept, find_pairs(source), strict=True):
        assert pair.image.read_bytes() == original.image.read_bytes()
        assert np.array_equal(load_pair(pair, size=None).mask, load_pair(original, size=None).mask)
    assert not (tmp_path / "out/manifest.jsonl").exists()


def test_a_distance_is_relative_to_what_is_usual_among_real_images() -> None:
    real = np.arange(5, dtype=np.float32)[:, None]  # on a line, 1 apart
    synthetic = np.array([[2.0], [4.5], [10.0]], np.float32)
    distance, among_real = relative_distances(real, synthetic, neighbours=2)
    usual = 1.0  # the median of 1.5, 1, 1, 1, 1.5
    np.testing.assert_allclose(among_real, np.array([1.5, 1, 1, 1, 1.5]) / usual)
    np.testing.assert_allclose(distance, np.array([0.5, 1.0, 6.5]) / usual)
    with pytest.raises(SelectionError, match="occur several times"):
        relative_distances(np.zeros((4, 2), np.float32), synthetic.repeat(2, 1), 2)


def test_a_threshold_itself_passes_and_both_reasons_are_told() -> None:
    judgement = Judgement(np.array([0.7, 0.5, 0.9]), np.array([1.3, 2.0, 1.5]), np.ones(3))
    assert rejections(judgement, 0.7, 1.3) == [
        "",
        "agreement: Dice 0.500 is below 0.7; realism: distance 2.000 is above 1.3",
        "realism: distance 1.500 is above 1.3",
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--min-dice", 1.5), "--min-dice must lie in 0..1, not 1.5"),
        (("--max-distance", 0), "--max-distance must be above 0, not 0"),
        (("--neighbours", 0), "--neighbours must be at least 1, not 0"),
        (("--neighbours", 40), "40 real pairs are too few for --neighbours 40"),
        (("--network", "vnet"), "--network vnet is not known; take one of"),
        (("--segmenter", "missing.safetensors"), "missing.safetensors: cannot be read"),
        (("--extractor", "missing.pt"), "missing.pt: no such extractor"),
        (("--pairs", "missing"), "'missing' does not exist"),
    ],
)
def test_what_cannot_be_used_is_named(
    flags: tuple[object, ...], message: str, synthetic: Path, real: Path, extractor: Path, tmp_path: Path
) -> None:
    numbers = ("--steps", 1, "--batch-size", 2, "--resolution", SIDE, "--extractor", extractor)
    refusal = run(synthetic, real, tmp_path / "out", *numbers, *flags).refusal
    assert message in refusal
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_is_left_alone(synthetic: Path, real: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    assert run(synthetic, real, tmp_path).refusal.startswith(f"{tmp_path}: not empty")
    assert run_here(select.main, "--pairs", synthetic).refusal == "--real is needed"
