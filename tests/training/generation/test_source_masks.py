"""What generate is given as masks: how many pairs become of them, and making one of these again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import Outcome, run_here
from tests.support.folders import read_tree
from training import generate, regenerate


def made(model: Path, masks: Path, output: Path, *more: object) -> list[dict[str, Any]]:
    outcome = generated(model, masks, output, *more)
    assert outcome.status == 0, outcome.errors
    return [json.loads(line) for line in (output / "manifest.jsonl").read_text("utf-8").splitlines()]


def generated(model: Path, masks: Path, output: Path, *more: object) -> Outcome:
    places = ("--checkpoint", model, "--masks", masks, "--output", output)
    return run_here(generate.main, *places, "--steps", 1, "--threads", 1, "--batch-size", 2, *more)


@pytest.mark.parametrize("given", ["pairs", "masks", "file", "links"])
def test_a_pair_is_made_again_from_whatever_masks_generate_was_given(
    given: str, pairs: Path, full_model: Path, tmp_path: Path
) -> None:
    files = sorted((pairs / "masks").iterdir())
    (tmp_path / "links").mkdir()
    for file in files:
        (tmp_path / "links" / file.name).symlink_to(file)
    masks = {"pairs": pairs, "masks": pairs / "masks", "file": files[0], "links": tmp_path / "links"}[given]
    line = made(full_model, masks, tmp_path / "made")[0]

    record = (tmp_path / "made" / "manifest.jsonl", "--pair", line["stem"])
    places = ("--checkpoint", full_model, "--masks", masks, "--output", tmp_path / "again")
    outcome = run_here(regenerate.main, *record, *places)

    assert outcome.status == 0, outcome.errors
    assert "equal to the original, byte for byte" in outcome.output


def test_masks_that_lack_the_pairs_own_are_told_with_its_name(
    pairs: Path, full_model: Path, tmp_path: Path
) -> None:
    line = made(full_model, pairs, tmp_path / "made")[2]
    record = (tmp_path / "made" / "manifest.jsonl", "--pair", line["stem"], "--checkpoint", full_model)

    def refusal(masks: Path) -> str:
        return run_here(regenerate.main, *record, "--masks", masks, "--output", tmp_path / "again").refusal

    (tmp_path / "others").mkdir()
    shutil.copy(next((pairs / "masks").iterdir()), tmp_path / "others" / "other.png")
    assert f"the mask is not there: {line['stem']} was generated for '{line['mask_file']}'" in refusal(
        tmp_path / "others"
    )
    assert "not the mask of the record" in refusal(tmp_path / "others" / "other.png")
    assert "no such folder of masks" in refusal(tmp_path / "nowhere")
    assert not (tmp_path / "again").exists()


def test_a_total_counts_all_pairs_and_every_mask_gets_as_many_give_or_take_one(
    pairs: Path, full_model: Path, tmp_path: Path
) -> None:
    lines = made(full_model, pairs, tmp_path / "made", "--total", 8)
    sources = [line["mask_file"] for line in lines]
    assert len(lines) == 8 and sources == sorted(sources)
    assert sorted(sources.count(name) for name in set(sources)) == [1, 1, 1, 1, 2, 2]
    assert len({line["seed"] for line in lines}) == 8
    written = [np.asarray(Image.open(tmp_path / "made" / "images" / f"{line['stem']}.png")) for line in lines]
    assert len({image.tobytes() for image in written}) == 8

    few = made(full_model, pairs, tmp_path / "few", "--total", 3, "--random-masks")
    assert [line["mask_file"] for line in few] == [
        path.name for path in sorted((pairs / "masks").iterdir())[::2]
    ]


def test_a_total_of_whole_rounds_is_the_dataset_of_so_many_per_mask(
    pairs: Path, full_model: Path, tmp_path: Path
) -> None:
    for name, flags in (("total", ("--total", 12)), ("each", ("--per-mask", 2))):
        made(full_model, pairs, tmp_path / name, *flags)
    assert read_tree(tmp_path / "total") == read_tree(tmp_path / "each")


def test_a_total_beside_a_number_per_mask_and_another_total_on_resume_are_refused(
    pairs: Path, full_model: Path, tmp_path: Path
) -> None:
    refusal = generated(full_model, pairs, tmp_path / "made", "--total", 8, "--per-mask", 2).refusal
    assert refusal == "--total and --per-mask both say how many images are made; give one of them"
    made(full_model, pairs, tmp_path / "made", "--total", 8)
    refusal = generated(full_model, pairs, tmp_path / "made", "--total", 7, "--resume").refusal
    assert "pairs was 8 and is now 7" in refusal
