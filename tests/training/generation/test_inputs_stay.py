"""What commands and nodes read, and what others wrote, stays as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from siamese_core.files import whole_folder
from siamese_core.overlap import OverlapError, require_apart
from siamese_core.pairs.export_formats import FORMATS
from siamese_core.pairs.pair_folder import add_pairs
from siamese_core.pairs.pair_writer import WriteError
from tests.support.commands import Outcome, run_here
from tests.support.datasets.generation_runs import PLAN, run_set
from tests.support.datasets.others_files import MINE, THERE, new_pair, put
from tests.support.folders import read_tree
from tests.support.phantoms.phantom import write_phantoms
from training import demo, export, generate, merge, prepare, regenerate, select

HOWS = ({}, {"resume": True}, {"replace": True})


# Folders that are read


def test_what_is_written_and_what_is_read_are_told_apart(tmp_path: Path) -> None:
    put(tmp_path, "data/masks/a.png", "data/images/a.png", "flat/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a.png").symlink_to(tmp_path / "data" / "masks" / "a.png")
    read = tmp_path / "data" / "masks"
    for target, text in (
        ("data/masks", "the input is read from there"),
        ("link/masks", "the input is read from there"),
        ("link/../data/masks", "the input is read from there"),
        ("data/masks/new/images", "lies in"),
        ("link/masks/new", "lies in"),
        ("data", "holds"),
        ("link", "holds"),
    ):
        with pytest.raises(OverlapError, match=text) as refusal:
            require_apart([tmp_path / "none", tmp_path / target], [read])
        assert str(refusal.value).startswith(str(tmp_path / target))
    with pytest.raises(OverlapError, match="holds"):
        require_apart([read], [tmp_path / "linked", tmp_path / "linked" / "a.png"])
    with pytest.raises(OverlapError, match="holds"):
        require_apart([tmp_path / "flat"], [tmp_path / "flat" / "a.png"])
    require_apart([tmp_path / "data" / "synthetic", tmp_path / "data" / "images"], [read])
    require_apart([tmp_path / "flat" / "new"], [tmp_path / "flat" / "a.png"])


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_no_format_is_written_where_its_masks_are_read(kind: str, tmp_path: Path) -> None:
    plan = replace(PLAN, form=FORMATS[kind])
    masks = (tmp_path / plan.form.names(0, "mine")[-1]).parent
    put(masks, "mine.png")
    for output, read in ((tmp_path, masks), (masks / "new", masks)):
        for how in HOWS:
            with pytest.raises(OverlapError):
                run_set(output, plan=plan, reads=[read], **how)
    assert read_tree(masks) == {"mine.png": MINE}
    assert run_set(
        tmp_path / "new" if masks != tmp_path else tmp_path.with_name("new"), plan=plan, reads=[masks]
    )


# The commands


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_phantoms(tmp_path / "data", 4, size=64)
    return tmp_path / "data"


Generate = Callable[..., Outcome]


@pytest.fixture
def run_generate(full_model: Path) -> Generate:
    def run(masks: Path, output: Path, *more: object) -> Outcome:
        places = ("--checkpoint", full_model, "--masks", masks, "--output", output)
        return run_here(generate.main, *places, "--steps", 2, "--threads", 1, *more)

    return run


def test_generate_never_writes_into_its_masks(data: Path, run_generate: Generate) -> None:
    before, link = read_tree(data), data.with_name("link")
    link.symlink_to(data)
    for masks, output in ((data, data), (data / "masks", link), (data, data / "masks" / "new")):
        for more in ((), ("--overwrite",), ("--resume",)):
            assert "the output would be written there" in run_generate(masks, output, *more).refusal
    assert "the output would be written there" in run_generate(data, data, "--format", "webdataset").refusal
    pictures = ("--images", data / "images")
    assert "the output would be" in run_generate(data, data / "images", *pictures, "--overwrite").refusal
    assert read_tree(data) == before
    one = run_generate(data / "masks" / "phantom_00000.png", data, "--overwrite").refusal
    assert f"{data / 'masks'}: the output would be written there, and that holds" in one
    assert read_tree(data) == before
    for more in ((), ("--overwrite",)):
        assert run_generate(data, data / "synthetic", *more).status == 0
    found = read_tree(data)
    assert {name: found[name] for name in before} == before


def test_generate_never_replaces_the_dataset_of_somebody_else(data: Path, run_generate: Generate) -> None:
    other = data.with_name("other")
    shutil.copytree(data, other)
    (other / "prompt.json").unlink()
    before = read_tree(other)
    for more in ((), ("--overwrite",), ("--resume",), ("--shard", "0/2")):
        refusal = run_generate(data, other, *more).refusal
        assert f"8 files of the dataset are {THERE}, the first is 'images/phantom_00000.png'" in refusal
        assert "--overwrite" not in refusal
    assert read_tree(other) == before


def test_merge_never_replaces_a_file_beside_the_pairs(data: Path, run_generate: Generate) -> None:
    folder = data.with_name("set")
    more = ("--format", "imagefolder", "--batch-size", 1, "--chunk-size", 1, "--shard", "0/2")
    assert run_generate(data, folder, *more).status == 0
    put(folder, "README.md")
    assert "the first is 'README.md'" in run_here(merge.main, folder, "--partial").refusal
    assert (folder / "README.md").read_bytes() == MINE
    assert not (folder / "manifest.jsonl").exists()


def test_commands_that_write_a_new_folder_leave_their_input_alone(
    data: Path, run_generate: Generate, full_model: Path
) -> None:
    before = read_tree(data)
    inside = data / "masks" / "new"
    text = f"{inside}: the output would be written there, and that lies in '{data / 'masks'}', which is read"
    assert text in run_here(export.main, data, "--output", inside, "--format", "coco").refusal
    assert text in run_here(prepare.main, data, "--output", inside).refusal
    assert text in run_here(select.main, "--pairs", data, "--real", data, "--output", inside).refusal
    generated = data.with_name("generated")
    assert run_generate(data, generated).status == 0
    record = (generated / "manifest.jsonl", "--pair", "phantom_00001")
    places = ("--checkpoint", full_model, "--masks", data / "masks", "--output")
    assert text in run_here(regenerate.main, *record, *places, inside).refusal
    assert run_here(export.main, data, "--output", data / "coco", "--format", "coco").status == 0
    shutil.rmtree(data / "coco")
    assert read_tree(data) == before


@pytest.mark.parametrize("link", [False, True])
def test_a_file_that_appears_in_the_empty_output_meanwhile_stays(link: bool, tmp_path: Path) -> None:
    target = tmp_path / "out"
    (tmp_path / "real" if link else target).mkdir()
    if link:
        target.symlink_to(tmp_path / "real")
    with pytest.raises(OSError), whole_folder(target, replace=False) as folder:
        put(folder, "new.txt")
        put(target, "mine.txt")
    assert read_tree(target) == {"mine.txt": MINE}
    (target / "mine.txt").unlink()
    with whole_folder(target, replace=False) as folder:
        put(folder, "new.txt")
    assert read_tree(target) == {"new.txt": MINE}
    assert target.is_symlink() == link


def test_the_demo_removes_what_a_demo_listed_and_nothing_else(tmp_path: Path) -> None:
    put(tmp_path, "demo/training/model.safetensors", "demo/pairs/images/a.png")
    with pytest.raises(demo.OptionError, match=r"pairs/images/a.png, which is on no list of an earlier demo"):
        demo._prepare(tmp_path / "demo")
    demo._note_files(tmp_path / "demo")
    put(tmp_path, "demo/pairs/images/mine.png")
    before = read_tree(tmp_path)
    with pytest.raises(demo.OptionError, match=r"holds pairs/images/mine.png"):
        demo._prepare(tmp_path / "demo")
    checkpoint = tmp_path / "demo" / "training" / "model.safetensors"
    outcome = run_here(demo.main, "--output", tmp_path / "demo", "--checkpoint", checkpoint)
    assert f"holds '{checkpoint}', which is read" in outcome.refusal
    assert read_tree(tmp_path) == before


# Pairs added one by one


def test_pairs_are_not_added_to_a_generated_set_and_none_is_made_among_added_ones(
    data: Path, run_generate: Generate
) -> None:
    folder = data.with_name("set")
    assert run_generate(data, folder).status == 0
    before = read_tree(folder)
    for how in ("number", "skip", "overwrite"):
        with pytest.raises(
            WriteError, match=r"holds a dataset of Generate Dataset or training.generate.*save to"
        ):
            add_pairs(folder, [new_pair("a"), new_pair("phantom_00000")], how)  # type: ignore[arg-type]
    assert read_tree(folder) == before
    saved = data.with_name("saved")
    add_pairs(saved, [new_pair("a")])
    before = read_tree(saved)
    for more in ((), ("--overwrite",), ("--resume",)):
        refusal = run_generate(data, saved, *more).refusal
        assert f"2 files of the dataset are {THERE}, the first is 'prompt.json'" in refusal
    assert read_tree(saved) == before


def test_added_pairs_replace_only_listed_ones(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png", "masks/b.png")
    before = read_tree(tmp_path)
    with pytest.raises(WriteError, match=r"2 files of these names .* the first is 'images/a.png'"):
        add_pairs(tmp_path, [new_pair("a"), new_pair("b"), new_pair("c")], "overwrite")
    assert read_tree(tmp_path) == before
    assert add_pairs(tmp_path, [new_pair("a"), new_pair("b"), new_pair("c")], "number") == ["a_2", "b_2", "c"]
    assert add_pairs(tmp_path, [new_pair("c", 9), new_pair("a_2", 9)], "overwrite") == ["c", "a_2"]
    found = read_tree(tmp_path)
    assert {name: found[name] for name in before} == before
    stems = [json.loads(line)["stem"] for line in found["manifest.jsonl"].splitlines()]
    assert sorted(stems) == ["a_2", "b_2", "c"]
