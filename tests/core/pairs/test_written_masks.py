"""Options for masks apply to a user's files; what this package has written is white on black."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from siamese_core.masks.foreground_rule import PLAIN_MASKS, ForegroundRule
from siamese_core.masks.image_decoding import MaskError
from siamese_core.pairs.export_formats import FORMATS
from siamese_core.pairs.manifest import PairRecord, record_text
from siamese_core.pairs.pair import Pair
from siamese_core.pairs.pair_checks import check_pairs
from siamese_core.pairs.pair_files import load_pair
from siamese_core.pairs.pair_writer import PairWriter, png_bytes
from siamese_core.pairs.written_masks import is_written_mask, read_mask_by_origin, rule_by_origin
from tests.support.commands import run_here
from tests.support.datasets.pair_files import FOREGROUND, SHAPE, save, save_image, save_mask
from tests.support.datasets.pair_sets import finished_pairs, write_set
from training import prepare

INVERTED = ForegroundRule(invert=True)
RULES = [INVERTED, ForegroundRule(label=3), ForegroundRule(source="alpha"), ForegroundRule(colour="ff0000")]
IMAGE = np.full((*SHAPE, 3), 90, np.uint8)


def record(stem: str) -> PairRecord:
    return PairRecord(0, stem, 1, "source.png", "ab", "a polyp", {}, "cd", "run")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder of one pair as the node Save Pairs writes it."""
    PairWriter(tmp_path / "saved").write(record("a"), IMAGE, FOREGROUND)
    return tmp_path / "saved"


@pytest.mark.parametrize("rule", RULES)
def test_a_mask_on_a_list_of_ours_is_read_as_it_was_written(rule: ForegroundRule, saved: Path) -> None:
    reading = read_mask_by_origin(saved / "masks" / "a.png", rule)

    assert np.array_equal(reading.mask, FOREGROUND)
    assert "written by this package as white on black" in str(reading.note)
    assert reading.changed


@pytest.mark.parametrize("kind", ["pairs", "pranet", "isic", "coco", "imagefolder", "nnunet"])
def test_masks_of_every_layout_are_known(kind: str, tmp_path: Path) -> None:
    write_set(tmp_path, FORMATS[kind], finished_pairs())
    for pair in finished_pairs():
        path = tmp_path / FORMATS[kind].names(pair.record.index, pair.record.stem)[1]
        assert np.array_equal(read_mask_by_origin(path, INVERTED).mask, pair.mask), path


def test_a_users_own_mask_beside_them_is_read_by_the_rule(saved: Path) -> None:
    mine = save_mask(saved / "masks" / "mine.png")

    assert np.array_equal(read_mask_by_origin(mine, INVERTED).mask, ~FOREGROUND)
    assert read_mask_by_origin(mine, INVERTED).note is None
    assert np.array_equal(read_mask_by_origin(saved / "masks" / "a.png", INVERTED).mask, FOREGROUND)


def test_a_list_that_grows_is_read_again(saved: Path) -> None:
    later = save_mask(saved / "masks" / "later.png")
    assert not is_written_mask(later)
    PairWriter(saved).write(record("later"), IMAGE, FOREGROUND)
    assert is_written_mask(later)


def test_a_manifest_of_another_program_says_nothing(tmp_path: Path) -> None:
    mask = save_mask(tmp_path / "masks" / "a.png")
    (tmp_path / "manifest.jsonl").write_text('{"audio": "a.wav"}\n{"stem": "a", "files": []}\n', "utf-8")
    assert np.array_equal(read_mask_by_origin(mask, INVERTED).mask, ~FOREGROUND)


def test_a_generated_image_tells_of_its_mask_where_no_list_was_copied(tmp_path: Path) -> None:
    mask = save_mask(tmp_path / "masks" / "a.png")
    other = save_mask(tmp_path / "masks" / "b.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png_bytes(IMAGE, record_text(record("a"))))
    save_image(tmp_path / "images" / "b.png")

    assert np.array_equal(read_mask_by_origin(mask, INVERTED).mask, FOREGROUND)
    assert np.array_equal(read_mask_by_origin(other, INVERTED).mask, ~FOREGROUND)


def test_a_link_to_a_written_mask_is_one(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "chosen" / "masks").mkdir(parents=True)
    link = tmp_path / "chosen" / "masks" / "a.png"
    link.symlink_to(saved / "masks" / "a.png")
    assert np.array_equal(read_mask_by_origin(link, INVERTED).mask, FOREGROUND)


def test_a_written_mask_that_has_become_a_link_is_one_still(saved: Path) -> None:
    """As git-annex moves every file into its own store and leaves a link."""
    store = saved / ".git" / "annex" / "objects"
    store.mkdir(parents=True)
    for part in ("images", "masks"):
        file = saved / part / "a.png"
        file.rename(store / f"SHA256E-{part}.png")
        file.symlink_to(store / f"SHA256E-{part}.png")
    assert np.array_equal(read_mask_by_origin(saved / "masks" / "a.png", INVERTED).mask, FOREGROUND)


def test_a_prepared_mask_is_white_on_black_already(tmp_path: Path) -> None:
    for stem in "abc":
        save_image(tmp_path / "mine" / "images" / f"{stem}.png")
        save_mask(tmp_path / "mine" / "masks" / f"{stem}.png", ~FOREGROUND)
    flags = ("--output", tmp_path / "data", "--split", "1:1:1", "--prompt", "a polyp", "--invert")
    outcome = run_here(prepare.main, tmp_path / "mine", *flags)
    assert outcome.status == 0, outcome.errors

    written = sorted((tmp_path / "data").glob("*/masks/*.png"))
    assert len(written) == 3
    for path in written:
        assert np.array_equal(read_mask_by_origin(path, INVERTED).mask, FOREGROUND)
    # Whatever else is put below the folder is not what was prepared.
    shutil.copytree(tmp_path / "mine", tmp_path / "data" / "mine")
    line = {"source": "masks/a.png", "target": "images/a.png", "prompt": ""}
    (tmp_path / "data" / "mine" / "prompt.json").write_text(json.dumps(line), "utf-8")
    assert not is_written_mask(tmp_path / "data" / "mine" / "masks" / "a.png")


def test_a_rule_that_reads_a_written_mask_alike_is_not_told(saved: Path) -> None:
    for rule in (PLAIN_MASKS, ForegroundRule(threshold=0), ForegroundRule(source="brightness")):
        path = saved / "masks" / "a.png"
        assert rule_by_origin(path, rule) == rule
        reading = read_mask_by_origin(path, rule)
        assert np.array_equal(reading.mask, FOREGROUND)
        assert (reading.note, reading.changed) == (None, None)


def test_a_check_of_both_kinds_tells_of_the_written_ones_once(saved: Path, tmp_path: Path) -> None:
    save_image(tmp_path / "real" / "b.png")
    mine = save_mask(tmp_path / "real" / "masks" / "b.png", ~FOREGROUND)
    pairs = [
        Pair("a", saved / "images" / "a.png", saved / "masks" / "a.png", None),
        Pair("b", tmp_path / "real" / "b.png", mine, None),
    ]

    check = check_pairs(pairs, INVERTED)

    (note,) = check.notes
    assert note.startswith("1 of 2 masks: it was written by this package as white on black")
    assert check.changes == [
        "1 of 2 masks (first: a.png): masks that this package has written are white on black"
    ]
    assert all(np.array_equal(load_pair(pair, size=None, rule=INVERTED).mask, FOREGROUND) for pair in pairs)


def test_a_users_mask_that_the_rule_cannot_read_is_still_refused(tmp_path: Path) -> None:
    labels = save(tmp_path / "masks" / "a.png", np.repeat(np.arange(4, dtype=np.uint8), 30).reshape(SHAPE))
    with pytest.raises(MaskError, match="--mask-label"):
        read_mask_by_origin(labels, INVERTED)
