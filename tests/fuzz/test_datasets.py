"""Damaged lists of a half-finished dataset: a run resumes, or names the list that stops it."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from siamese_core.dataset_generation.finished_pairs import DatasetLists, stored_plan
from siamese_core.dataset_generation.storage import open_store
from siamese_core.pairs.manifest import RECORD_KEY
from tests.support.datasets.generation_runs import PLAN, Stopped, Work, run_set, stop_after
from tests.support.fuzzing import TOKENS, inputs, json_values, refusal
from training.regenerate import read_record

SAMPLER = {
    "steps": 2,
    "guidance": 3.0,
    "negative_prompt": "",
    "resolution": 64,
    "resize_mode": "stretch",
    "size": "model",
    "mask_threshold": 127,
    "mask_label": None,
    "image_weight": None,
    "shares_text": True,
    "threads": 1,
    "batch_size": 2,
}
SMALL = replace(PLAN, count=5, batch_size=2, chunk_size=2)


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A dataset that was stopped, and a file of the user's own in its folder."""
    folder = tmp_path / "half"
    with pytest.raises(Stopped):
        run_set(folder, plan=SMALL, on_pairs=stop_after(3))
    (folder / "notes").mkdir()
    (folder / "notes/mine.txt").write_text("mine")
    return folder


def damaged(path: Path, count: int) -> list[bytes]:
    whole = path.read_bytes()
    rows = [json.loads(line) for line in whole.splitlines()]
    by_value = [
        "".join(json.dumps(row) + "\n" for row in value).encode()
        for value in json_values([rows], count - count // 2)
        if isinstance(value, list)
    ]
    return [*inputs([whole], count // 2, TOKENS), *by_value]


def lists(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / ".run").rglob("*") if path.is_file() and path.suffix != ".lock")


@pytest.mark.parametrize("how", ["resume", "replace"])
def test_runs_over_damaged_lists(half: Path, tmp_path: Path, how: str) -> None:
    for name in [path.relative_to(half) for path in lists(half)]:
        for data in damaged(half / name, 16):
            folder = tmp_path / "run"
            shutil.copytree(half, folder)
            (folder / name).write_bytes(data)
            outcome = refusal(
                lambda folder=folder: run_set(folder, plan=SMALL, **{how: True}), str(folder), below=folder
            )
            assert (folder / "notes/mine.txt").read_text() == "mine"
            assert outcome is None or "half" not in outcome
            shutil.rmtree(folder)


def test_reading_damaged_lists(half: Path) -> None:
    store = open_store(str(half))
    for path in lists(half):
        whole = path.read_bytes()
        for data in damaged(path, 300):
            path.write_bytes(data)
            refusal(lambda: DatasetLists(store, stored_plan(store)).state(), str(half))
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "name", [".", "", "notes", "images", "../half", "a/../..", "notes/../notes", "/", "x" * 300]
)
def test_a_list_removes_files_and_never_folders(half: Path, name: str) -> None:
    (part,) = [path for path in lists(half) if path.name.startswith("00000000")]
    rows = [json.loads(line) for line in part.read_text("utf-8").splitlines()]
    rows[0]["files"][0]["name"] = name
    part.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    refusal(lambda: run_set(half, plan=SMALL, replace=True), str(half), "leads outside", below=half)
    assert (half / "notes/mine.txt").read_text() == "mine"


def image_with(text: str, path: Path) -> None:
    info = PngInfo()
    info.add_text(RECORD_KEY, text)
    Image.new("RGB", (16, 16)).save(path, pnginfo=info)


def test_damaged_records_are_not_generated_again(tmp_path: Path) -> None:
    manifest, image = tmp_path / "manifest.jsonl", tmp_path / "image.png"
    record = {**asdict(Work.pair(0).record), "sampler": SAMPLER}
    line = {**record, "files": [{"name": "images/m_0.png", "bytes": 3, "sha256": "ab"}]}
    for data in inputs([json.dumps(line).encode()], 150, TOKENS):
        manifest.write_bytes(data)
        refusal(lambda: read_record(manifest, "m_0"), manifest.name)
    for value in json_values([line], 300):
        manifest.write_text(json.dumps(value), "utf-8")
        refusal(lambda: read_record(manifest, "m_0"), manifest.name)
    for value in json_values([record], 200):
        image_with(json.dumps(value), image)
        refusal(lambda: read_record(image, None), image.name)
