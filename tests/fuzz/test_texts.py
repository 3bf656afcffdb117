"""Damaged prompt files, manifests, settings and ratings: each is read, or refused with its file's name."""

from __future__ import annotations

import argparse
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siamese_core.pairs.export_formats import FORMATS
from siamese_core.pairs.manifest import Manifest
from siamese_core.pairs.pair_checks import check_pairs
from siamese_core.pairs.pair_copies import copy_pairs
from siamese_core.pairs.pair_files import find_pairs, pairs_fingerprint
from siamese_core.pairs.pair_folder import NewPair, add_pairs
from siamese_core.pairs.pair_rewriting import export_pairs, find_source
from siamese_core.pairs.pair_writer import PairWriter
from tests.support.datasets.pair_sets import finished_pairs, write_set
from tests.support.fuzzing import TOKENS, inputs, json_values, refusal
from training.command_line.options import build, field_names, read_toml, refuse_unknown
from training.evaluate import EvaluateSettings
from training.evaluation.metrics.image_sets import find_images, match_by_mask
from training.export import ExportSettings
from training.generate import GenerateSettings
from training.make_base import MakeBaseSettings
from training.prepare import PrepareSettings
from training.rating.study_files import read_key, read_sheet
from training.segment import SegmentSettings
from training.select import SelectSettings
from training.train import TrainSettings

Reader = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small set whose texts the tests damage."""
    root = tmp_path / "set"
    write_set(root, FORMATS["pairs"], finished_pairs()[:4])
    return root


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def damaged_lists(path: Path, count: int) -> list[bytes]:
    """Damaged JSON Lines and arrays: half of them by byte, half by value."""
    rows = lines_of(path)
    texts = [path.read_bytes(), json.dumps(rows).encode(), json.dumps(rows, indent=1).encode("utf-16")]
    by_value = json_values([rows], count - count // 2)
    return [
        *inputs(texts, count // 2, TOKENS),
        *(as_text(rows, number) for number, rows in enumerate(by_value)),
    ]


def as_text(rows: Any, number: int) -> bytes:
    """The values as JSON Lines, or every other time as an array, if they still can be lines."""
    if isinstance(rows, list) and number % 2:
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    return json.dumps(rows).encode()


def read_pairs(path: Path) -> None:
    pairs = find_pairs(path, default_prompt="a polyp")
    check_pairs(pairs)
    pairs_fingerprint(pairs)


def test_prompt_files(folder: Path, tmp_path: Path) -> None:
    path, used = folder / "prompt_damaged.json", 0
    names = (path.name, *names_of(folder), "/etc/passwd")  # a prompt file may name any file as an image
    for data in damaged_lists(folder / "prompt.json", 1600):
        path.write_bytes(data)
        used += refusal(lambda: read_pairs(path), *names) is None
    assert 80 < used < 1500
    path.unlink()


def names_of(folder: Path) -> list[str]:
    return [file.name for kind in ("images", "masks") for file in (folder / kind).iterdir()]


def read_manifest(path: Path) -> None:
    manifest = Manifest(path)
    for pair in manifest.pairs():
        manifest.line(pair.stem)


def test_manifests(folder: Path) -> None:
    path, used = folder / "manifest.jsonl", 0
    whole = path.read_bytes()
    for data in damaged_lists(path, 1200):
        path.write_bytes(data)
        used += refusal(lambda: read_manifest(path), path.name) is None
        refusal(lambda: match_by_mask(find_images(folder), find_images(folder)), path.name)
    path.write_bytes(whole)
    assert 50 < used < 1100


@pytest.mark.parametrize("name", ["pranet", "coco", "webdataset"])
def test_sets_whose_manifest_is_damaged_are_exported_or_refused(
    folder: Path, tmp_path: Path, name: str
) -> None:
    whole = (folder / "manifest.jsonl").read_bytes()
    names = ("manifest.jsonl", *names_of(folder), str(tmp_path / "out"))
    for data in damaged_lists(folder / "manifest.jsonl", 150):
        (folder / "manifest.jsonl").write_bytes(data)
        message = refusal(
            lambda: export_pairs(find_source(folder), FORMATS[name], tmp_path / "out", chunk=3),
            *names,
            below=tmp_path,
        )
        assert message is None or not list(tmp_path.glob(".tmp*"))
    (folder / "manifest.jsonl").write_bytes(whole)


def test_lists_of_a_folder_that_gets_more_pairs(tmp_path: Path) -> None:
    pairs = [NewPair(pair.record, pair.image, pair.mask) for pair in finished_pairs()[:2]]
    add_pairs(tmp_path, pairs)
    for name in ("manifest.jsonl", "prompt.json"):
        whole = (tmp_path / name).read_bytes()
        for data in damaged_lists(tmp_path / name, 100):
            (tmp_path / name).write_bytes(data)
            refusal(lambda: PairWriter(tmp_path).forget(["plain"]), name, below=tmp_path)
        (tmp_path / name).write_bytes(whole)


def test_selecting_from_a_set_with_a_damaged_manifest(folder: Path, tmp_path: Path) -> None:
    pairs = find_pairs(folder, default_prompt="")
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    whole = (folder / "manifest.jsonl").read_bytes()
    for data in damaged_lists(folder / "manifest.jsonl", 100):
        (folder / "manifest.jsonl").write_bytes(data)
        refusal(
            lambda: copy_pairs(tmp_path, pairs, folder / "manifest.jsonl"), "manifest.jsonl", below=tmp_path
        )
    (folder / "manifest.jsonl").write_bytes(whole)


SETTINGS = (
    *(TrainSettings, GenerateSettings, MakeBaseSettings, PrepareSettings, SelectSettings, EvaluateSettings),
    *(ExportSettings, SegmentSettings),
)


def test_settings_files(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    seeds = [
        b'pairs = "a"\noutput = "b"\nsteps = 3\nlearning_rate = 1e-5\nresize_mode = "crop"\n',
        b'# a\nsize = "source"\nguidance = 9\nresolution = 64\nema_decay = 0.5\nprompt = """x\ny"""\n',
        b'masks = "m"\nmask_label = 2\nmask_threshold = 3\nvae_widths = [32, 64]\nskip_corrupt = true\n',
    ]
    for number, data in enumerate(inputs(seeds, 1000, TOKENS)):
        path.write_bytes(data)
        settings = SETTINGS[number % len(SETTINGS)]

        def read(settings: type = settings) -> None:
            table = read_toml(path)
            refuse_unknown(table, field_names(settings), path)
            build(settings, argparse.Namespace(), table)

        refusal(read, path.name, "TOML file", "is needed")


def test_ratings(tmp_path: Path) -> None:
    key_path, sheet_path = tmp_path / "key.json", tmp_path / "rater.csv"
    record = {
        "set": "s1",
        "sources": ["real", "synthetic"],
        "settings": {"count": 1},
        "items": {"i1": {"source": "real", "file": "a"}, "i2": {"source": "synthetic", "file": "b"}},
    }
    whole = json.dumps(record).encode()
    sheet = "set,rater,item,rating,seconds\ns1,Dr. Né,i1,3,10\ns1,Dr. Né,i2,5,2\n".encode()
    for data in inputs([whole], 150, TOKENS):
        key_path.write_bytes(data)
        refusal(lambda: read_key(key_path), key_path.name)
    for value in json_values([record], 150):
        key_path.write_text(json.dumps(value), "utf-8")
        refusal(lambda: read_key(key_path), key_path.name)
    key_path.write_bytes(whole)
    key = read_key(key_path)
    for data in inputs([sheet, sheet.replace(b",", b";"), sheet.replace(b"\n", b"\r\n")], 300, TOKENS):
        sheet_path.write_bytes(data)
        refusal(lambda: read_sheet(sheet_path, key), sheet_path.name)


def test_names_that_are_no_text_are_refused(folder: Path) -> None:
    for kind in ("images", "masks"):
        try:
            (folder / kind / "plain.png").rename(folder / kind / os.fsdecode(b"plain\xff.png"))
        except OSError:
            pytest.skip("this file system stores text only")
    (folder / "prompt.json").unlink()
    assert "is not UTF-8 text" in str(refusal(lambda: find_pairs(folder), "plain"))


@pytest.mark.parametrize("text", ['"\\ud800"', "9" * 5000, "[" * 100_000, '{"a":' * 100_000])
def test_json_that_python_chokes_on_is_refused(folder: Path, text: str) -> None:
    for name, read in (("prompt.json", find_pairs), ("manifest.jsonl", lambda path: Manifest(path))):
        (folder / name).write_text('{"stem": "x", "source": "x", "prompt": ' + text + "}\n", "utf-8")
        assert "JSON" in str(refusal(lambda read=read, name=name: read(folder / name), name))
        (folder / name).write_text('[{"prompt": ' + text + "}]", "utf-8")
        assert "JSON" in str(refusal(lambda read=read, name=name: read(folder / name), name))


def test_a_line_without_end_is_not_read_into_memory(folder: Path) -> None:
    with (folder / "manifest.jsonl").open("wb") as file:
        file.truncate(1 << 34)  # sparse: takes no room on the disk
    tracemalloc.start()
    assert "longer than" in str(refusal(lambda: Manifest(folder / "manifest.jsonl"), "manifest.jsonl"))
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()
