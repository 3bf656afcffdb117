"""Real masks that need an option, and synthetic ones of ours that do not, in one command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.many_pairs import SIDE
from siamese_core.pairs.manifest import PairRecord
from siamese_core.pairs.pair_writer import PairWriter
from tests.support.commands import run_here
from tests.support.phantoms.phantom import make_phantom, write_phantoms
from training import evaluate, generate, regenerate, segment, select

COUNT = 6
NOTE = "written by this package as white on black, so the options for masks do not apply to it"


class Means(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real pairs (``real``, ``test``), the same with black on white masks (``real-inverted`` ...), and
    synthetic pairs of ours."""
    root = tmp_path_factory.mktemp("sets")
    write_phantoms(root / "real", COUNT, size=SIDE)
    write_phantoms(root / "test", 3, size=SIDE, first=50)
    for name in ("real", "test"):
        shutil.copytree(root / name, root / f"{name}-inverted")
        for path in (root / f"{name}-inverted" / "masks").iterdir():
            Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    writer = PairWriter(root / "synthetic")
    for index in range(COUNT):
        phantom = make_phantom(900 + index, SIDE)
        made = PairRecord(index, f"s{index}", index, f"s{index}.png", "ab", "a polyp", {}, "cd", "run")
        writer.write(made, phantom.image, phantom.mask > 0)
    torch.jit.script(Means()).save(str(root / "means.pt"))
    return root


def ran(main: Any, *flags: object) -> str:
    outcome = run_here(main, *flags)
    assert outcome.status == 0, outcome.errors
    return outcome.output


def test_evaluate_finds_the_same_whichever_way_round_the_real_masks_are(sets: Path, tmp_path: Path) -> None:
    def metrics(kind: str, *flags: object) -> tuple[dict[str, Any], str]:
        real, test = sets / f"real{kind}", sets / f"test{kind}"
        output = tmp_path / f"out{kind}"
        told = ran(
            evaluate.main, "--real", real, "--synthetic", sets / "synthetic", "--output", output,
            "--features", sets / "means.pt", "--bootstrap", 100, "--segmenter-train", real,
            "--real-test", test, "--segmenter-steps", 30, "--segmenter-resolution", SIDE, *flags,
        )  # fmt: skip
        return json.loads((output / "evaluation.json").read_text("utf-8")), told

    plain, plainly_told = metrics("")
    inverted, told = metrics("-inverted", "--invert")

    assert plain["metrics"] == inverted["metrics"]
    assert [row["adherence"] for row in plain["images"]] == [row["adherence"] for row in inverted["images"]]
    assert NOTE in told and NOTE not in plainly_told


def test_segment_trains_on_the_same_masks_whichever_way_round_the_real_ones_are(
    sets: Path, tmp_path: Path
) -> None:
    def scores(kind: str, *flags: object) -> str:
        ran(
            segment.main, "--real", sets / f"real{kind}", "--synthetic", sets / "synthetic", "--times", 1,
            "--test", f"test={sets / f'test{kind}'}", "--network", "small-unet", "--steps", 4,
            "--batch-size", 4, "--resolution", SIDE, "--seeds", 1, "--threads", 1, "--cases", 0,
            "--output", tmp_path / f"out{kind}", *flags,
        )  # fmt: skip
        return (tmp_path / f"out{kind}" / "scores.csv").read_text("utf-8")

    assert scores("") == scores("-inverted", "--invert")


def test_select_judges_by_the_same_masks_whichever_way_round_the_real_ones_are(
    sets: Path, tmp_path: Path
) -> None:
    def selection(kind: str, *flags: object) -> Any:
        ran(
            select.main, "--pairs", sets / "synthetic", "--real", sets / f"real{kind}", "--steps", 4,
            "--output", tmp_path / f"out{kind}", "--batch-size", 2, "--resolution", SIDE, "--neighbours", 1,
            "--min-dice", 0, "--max-distance", 1000, "--extractor", sets / "means.pt", "--threads", 1, *flags,
        )  # fmt: skip
        return json.loads((tmp_path / f"out{kind}" / "selection.json").read_text("utf-8"))["pairs"]

    assert selection("") == selection("-inverted", "--invert")


def test_generated_masks_are_generated_for_as_they_are_and_the_record_says_so(
    sets: Path, full_model: Path, tmp_path: Path
) -> None:
    """Half of the masks are ours, half are the user's and inverted."""
    masks = tmp_path / "both"
    shutil.copytree(sets / "synthetic", masks)
    mine = next((sets / "real-inverted" / "masks").iterdir())
    shutil.copy(mine, masks / "masks" / "mine.png")
    places = ("--checkpoint", full_model, "--masks", masks / "masks")
    told = ran(
        generate.main, *places, "--output", tmp_path / "made", "--steps", 1, "--threads", 1, "--invert"
    )

    assert f"{COUNT} of {COUNT + 1} masks: it was {NOTE}" in told
    lines = [json.loads(line) for line in (tmp_path / "made" / "manifest.jsonl").read_text().splitlines()]
    assert {line["stem"]: line["sampler"].get("invert", False) for line in lines} == {
        **{f"s{index}": False for index in range(COUNT)},
        "mine": True,
    }
    for line in lines:
        source = np.asarray(Image.open(masks / "masks" / line["mask_file"])) > 0
        written = np.asarray(Image.open(tmp_path / "made" / "masks" / f"{line['stem']}.png")) > 0
        assert np.array_equal(written, ~source if line["stem"] == "mine" else source)
        record = (tmp_path / "made" / "manifest.jsonl", "--pair", line["stem"])
        again = ran(regenerate.main, *record, *places, "--output", tmp_path / f"again-{line['stem']}")
        assert "equal to the original, byte for byte" in again
