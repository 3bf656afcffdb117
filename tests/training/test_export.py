"""The export command, run as a user runs it: a dataset in, the same in another layout out, or nothing."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamese_core.json_lines import json_objects
from siamese_core.pairs.export_formats import FORMATS
from siamese_core.pairs.pair_files import find_pairs, load_pair
from siamese_core.pairs.pair_rewriting import find_source
from tests.support.commands import Outcome, run_here
from tests.support.datasets.dataset_trees import kvasir, plain
from tests.support.datasets.pair_sets import finished_pairs, write_set
from tests.support.folders import full_disk, read_tree
from training import export

OF_TWO_FILES = [name for name, kind in FORMATS.items() if not kind.chunk_is_a_file]


def run(source: Path, output: Path, name: str, *more: object) -> Outcome:
    return run_here(export.main, source, "--output", output, "--format", name, *more)


def exported(source: Path, output: Path, name: str, *more: object) -> list[dict[str, Any]]:
    """Run the command and return the lines of the manifest that it wrote."""
    outcome = run(source, output, name, *more)
    assert outcome.status == 0, outcome.errors
    return [line.value for line in json_objects(output / "manifest.jsonl")]


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """A dataset as the generating command writes it."""
    write_set(tmp_path / "generated", FORMATS["pairs"], finished_pairs())
    return tmp_path / "generated"


@pytest.mark.parametrize("name", FORMATS)
def test_a_converted_set_is_the_one_that_would_have_been_generated(
    generated: Path, tmp_path: Path, name: str
) -> None:
    before = read_tree(generated)
    exported(generated, tmp_path / "out", name, "--pairs-per-tar", 5)
    write_set(tmp_path / "direct", FORMATS[name], finished_pairs())
    out, direct = read_tree(tmp_path / "out"), read_tree(tmp_path / "direct")
    assert out.keys() == direct.keys()
    lines = [[json.loads(line) for line in tree.pop("manifest.jsonl").splitlines()] for tree in (out, direct)]
    assert lines[0] == lines[1]
    assert out == direct
    assert read_tree(generated) == before
    assert {path.name for path in tmp_path.iterdir()} == {"generated", "out", "direct"}


@pytest.mark.parametrize("name", OF_TWO_FILES)
def test_there_and_back_changes_nothing(generated: Path, tmp_path: Path, name: str) -> None:
    exported(generated, tmp_path / "there", name)
    exported(tmp_path / "there", tmp_path / "back", "pairs")
    there_and_back, once = read_tree(tmp_path / "back"), read_tree(generated)
    assert there_and_back.pop("manifest.jsonl").splitlines() != []
    once.pop("manifest.jsonl")
    assert there_and_back == once


def test_prompts_that_the_manifest_knows_are_kept(generated: Path, tmp_path: Path) -> None:
    known = [line["prompt"] for line in exported(generated, tmp_path / "there", "imagefolder")]
    lines = exported(tmp_path / "there", tmp_path / "back", "pairs", "--prompt", "another")
    assert [line["prompt"] for line in lines] == [prompt or "another" for prompt in known]
    assert known.count("") == 1


def test_pairs_of_which_nothing_is_known_get_a_record_of_their_files(tmp_path: Path) -> None:
    source = kvasir(tmp_path / "kvasir")
    lines = exported(source, tmp_path / "out", "coco", "--prompt", "a polyp")
    pairs = find_pairs(source)
    assert [line["index"] for line in lines] == list(range(len(pairs)))
    for line, pair in zip(lines, pairs, strict=True):
        assert (line["stem"], line["mask_file"], line["prompt"]) == (pair.stem, pair.mask.name, "a polyp")
        assert (line["seed"], line["run_id"], len(line["mask_digest"])) == (None, "", 64)
    for found, pair in zip(find_pairs(tmp_path / "out"), pairs, strict=True):
        loaded, original = load_pair(found, size=None), load_pair(pair, size=None)
        np.testing.assert_array_equal(loaded.image, original.image)  # JPEG, decoded once
        np.testing.assert_array_equal(loaded.mask, original.mask)


def test_what_a_manifest_tells_beyond_the_known_is_kept(generated: Path, tmp_path: Path) -> None:
    manifest = generated / "manifest.jsonl"
    lines = [json.loads(line) | {"lab": "Köln"} for line in manifest.read_text("utf-8").splitlines()]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    assert {line["lab"] for line in exported(generated, tmp_path / "out", "pranet")} == {"Köln"}


def test_pairs_without_an_index_of_their_own_are_numbered_anew(generated: Path, tmp_path: Path) -> None:
    manifest = generated / "manifest.jsonl"
    lines = manifest.read_text("utf-8").splitlines(keepends=True)
    manifest.write_text("".join(lines[3:]), "utf-8")
    outcome = run(generated, tmp_path / "out", "webdataset")
    assert f"note: {manifest} does not tell" in outcome.output
    numbers = [line.value["index"] for line in json_objects(tmp_path / "out/manifest.jsonl")]
    assert numbers == list(range(len(lines)))


def test_pairs_of_a_manifest_come_in_its_order(generated: Path) -> None:
    prompts = generated / "prompt.json"
    prompts.write_text("".join(reversed(prompts.read_text("utf-8").splitlines(keepends=True))), "utf-8")
    assert [pair.stem for pair in find_source(generated).pairs] == [p.record.stem for p in finished_pairs()]


def test_a_class_of_a_label_map_can_be_picked(tmp_path: Path) -> None:
    source = plain(tmp_path / "source", count=2)
    for mask in (source / "masks").iterdir():
        with Image.open(mask) as image:
            values = (np.asarray(image) > 0) * np.uint8(2)
        values[0, 0] = 1
        Image.fromarray(values).save(mask)
    assert "looks like a label map" in run(source, tmp_path / "out", "coco").refusal
    exported(source, tmp_path / "out", "nnunet", "--mask-label", 1)
    for label in (tmp_path / "out/labelsTr").iterdir():
        with Image.open(label) as image:
            assert np.asarray(image).sum() == 1


def test_what_was_interpreted_is_told(tmp_path: Path) -> None:
    write_set(tmp_path / "source", FORMATS["nnunet"], finished_pairs())
    outcome = run(tmp_path / "source", tmp_path / "out", "pairs")
    assert (
        "note: 11 of 12 masks: it holds only 0 and 1 and was read as black and white (first: "
        in outcome.output
    )


def test_images_that_are_not_read_as_they_are_stored_are_told(tmp_path: Path) -> None:
    source = plain(tmp_path / "source")
    image = next((source / "images").iterdir())
    Image.fromarray(np.full(Image.open(image).size[::-1], 3000, np.uint16)).save(image)
    outcome = run(source, tmp_path / "out", "nnunet")
    assert "images have up to 12 bits" in outcome.output and "4095 is white" in outcome.output


def test_a_picture_put_in_the_place_of_another_one_has_no_record(generated: Path, tmp_path: Path) -> None:
    first, *others = find_pairs(generated, default_prompt="")
    pixels = np.asarray(Image.open(first.image))
    Image.fromarray(255 - pixels).save(first.image)
    outcome = run(generated, tmp_path / "out", "coco")
    assert f"1 image (first: {first.image.name}) replaced since manifest.jsonl was written" in outcome.output
    lines = {line.value["stem"]: line.value for line in json_objects(tmp_path / "out" / "manifest.jsonl")}
    assert (lines[first.stem]["checkpoint_digest"], lines[first.stem]["seed"]) == ("", None)
    assert all(lines[pair.stem]["checkpoint_digest"] for pair in others)


def test_an_unfinished_dataset_is_told(generated: Path, tmp_path: Path) -> None:
    for name in ("manifest.jsonl", "prompt.json"):
        (generated / name).unlink()
    (generated / ".run").mkdir(exist_ok=True)
    outcome = run(generated, tmp_path / "out", "coco")
    assert "a dataset that is not finished" in outcome.output and "training.merge --partial" in outcome.output


def test_tars_hold_as_many_pairs_as_asked(generated: Path, tmp_path: Path) -> None:
    exported(generated, tmp_path / "out", "webdataset", "--pairs-per-tar", 7)
    counts = []
    for path in sorted((tmp_path / "out").glob("*.tar")):
        with tarfile.open(path) as tar:
            counts.append(len(tar.getnames()))
    assert counts == [21, 15]


def test_what_cannot_be_used_is_named(generated: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_here(export.main, generated, "--output", out).refusal == "--format is needed"
    assert run(generated, out, "voc").refusal.startswith(
        "--format voc is not known; take one of pairs, pranet"
    )
    assert "at least 1, not 0" in run(generated, out, "pairs", "--pairs-per-tar", 0).refusal
    assert "does not exist" in run(tmp_path / "missing", out, "pairs").refusal
    assert "not empty; give a new folder" in run(generated, generated, "pairs").refusal
    assert not out.exists()


def test_tars_are_not_read(generated: Path, tmp_path: Path) -> None:
    exported(generated, tmp_path / "tars", "webdataset")
    assert "tar files" in run(tmp_path / "tars", tmp_path / "out", "pairs").refusal


@pytest.mark.parametrize("place", ["../elsewhere.png", "/etc/hostname"])
def test_a_manifest_leads_nowhere_else(generated: Path, tmp_path: Path, place: str) -> None:
    shutil.copyfile(generated / "masks/plain.png", tmp_path / "elsewhere.png")
    exported(generated, tmp_path / "there", "pranet")
    manifest = tmp_path / "there/manifest.jsonl"
    text = manifest.read_text("utf-8").replace("TrainDataset/masks/plain.png", place)
    manifest.write_text(text, "utf-8")
    assert "leads outside of the folder" in run(tmp_path / "there", tmp_path / "out", "pairs").refusal


@pytest.mark.parametrize("stem", ["../x", "", "..", "a/b"])
def test_a_manifest_names_no_other_places(generated: Path, tmp_path: Path, stem: str) -> None:
    exported(generated, tmp_path / "there", "pranet")
    manifest = tmp_path / "there/manifest.jsonl"
    manifest.write_text(manifest.read_text("utf-8").replace('"stem": "plain"', f'"stem": "{stem}"'), "utf-8")
    assert "must be a plain file name" in run(tmp_path / "there", tmp_path / "out", "pairs").refusal


def test_a_bad_pair_leaves_nothing(generated: Path, tmp_path: Path) -> None:
    (generated / "masks/tall.png").write_bytes(b"no image")
    assert "tall.png" in run(generated, tmp_path / "out", "coco").refusal
    assert {path.name for path in tmp_path.iterdir()} == {"generated"}


def test_a_full_disk_leaves_nothing(generated: Path, tmp_path: Path) -> None:
    with full_disk():
        refusal = run(generated, tmp_path / "out", "pairs").refusal
    assert refusal.startswith(f"{tmp_path / 'out'}: not written (")
    assert {path.name for path in tmp_path.iterdir()} == {"generated"}


def test_names_that_fall_together_are_refused(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As two stems do on a file system that does not tell A from a.
    monkeypatch.setattr(FORMATS["pranet"], "mask_file", "TrainDataset/masks/same.png", raising=True)
    assert "another pair's file is called" in run(generated, tmp_path / "out", "pranet").refusal
