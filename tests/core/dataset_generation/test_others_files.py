"""What others wrote is never replaced or removed, and nothing is written where it is read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from siamese_core.dataset_generation.finished_pairs import DatasetError, DatasetLists, remove_dataset
from siamese_core.dataset_generation.generation_run import Shard
from siamese_core.dataset_generation.storage import FolderStore, open_store
from siamese_core.pairs.export_formats import FORMATS
from tests.support.datasets.generation_runs import PLAN, Stopped, Work, files, run_set, stop_after
from tests.support.datasets.others_files import MINE, THERE, put
from tests.support.folders import read_tree

HOWS = ({}, {"resume": True}, {"replace": True})


# The files of a dataset


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_a_file_of_a_pairs_name_is_never_replaced(kind: str, tmp_path: Path) -> None:
    plan, folder = replace(PLAN, form=FORMATS[kind]), tmp_path / "set"
    name = plan.form.names(21, "m_21")[-1]
    put(folder, name, "notes.txt")
    for how in HOWS:
        with pytest.raises(DatasetError, match=rf"a file of the dataset is {THERE}, the first is '{name}'"):
            run_set(folder, plan=plan, **how)
        assert read_tree(folder) == {name: MINE, "notes.txt": MINE}
    with pytest.raises(DatasetError, match=THERE):
        run_set(folder, plan=plan, shard=Shard(0, 2))
    assert read_tree(folder) == {name: MINE, "notes.txt": MINE}


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_a_file_of_a_lists_name_is_never_replaced(kind: str, tmp_path: Path) -> None:
    form = FORMATS[kind]
    names = [name for name, _ in form.index_files(lambda: (), lambda name: b"")]
    for number, name in enumerate((*names, "manifest.jsonl")):
        folder = tmp_path / str(number)
        put(folder, name)
        for how in HOWS:
            with pytest.raises(DatasetError, match=f"the first is '{name}'"):
                run_set(folder, plan=replace(PLAN, form=form), **how)
        assert read_tree(folder) == {name: MINE}


def test_how_many_files_are_in_the_way_is_said(tmp_path: Path) -> None:
    put(tmp_path, "images/m_2.png", "images/m_10.png", "masks/m_2.png", "prompt.json", "images/other.png")
    with pytest.raises(
        DatasetError, match=rf"4 files .* {THERE}, the first is 'images/m_2.png'.*another folder"
    ):
        run_set(tmp_path, replace=True)


def test_files_of_others_that_are_not_in_the_way_stay(tmp_path: Path) -> None:
    mine = (
        "notes.txt",
        "images/mine.png",
        "masks/m_3.jpg",
        "images/.m_3.png",
        ".hidden/m_3.png",
        "README.md",
    )
    put(tmp_path, *mine)
    run_set(tmp_path, replace=True)
    run_set(tmp_path, plan=replace(PLAN, count=3, settings={"seed": 9}), replace=True)
    run_set(tmp_path, plan=replace(PLAN, form=FORMATS["nnunet"]), replace=True)
    found = read_tree(tmp_path)
    assert {name: found[name] for name in mine} == dict.fromkeys(mine, MINE)
    assert not {"images/m_0.png", "prompt.json"} & found.keys()


def test_overwriting_is_advised_only_where_it_helps(tmp_path: Path) -> None:
    put(tmp_path, "notes.txt")
    with pytest.raises(DatasetError, match="not empty; give another folder, or --overwrite to write beside"):
        run_set(tmp_path)
    for how in ({"resume": True}, {"shard": Shard(0, 2)}):
        with pytest.raises(DatasetError, match=r"not empty; give another folder$"):
            run_set(tmp_path, **how)
    put(tmp_path, "images/m_0.png")
    with pytest.raises(DatasetError) as refusal:
        run_set(tmp_path)
    assert "--overwrite" not in str(refusal.value)


def test_a_file_put_into_an_unfinished_set_is_neither_replaced_nor_removed(tmp_path: Path) -> None:
    plan = replace(PLAN, form=FORMATS["imagefolder"])
    with pytest.raises(Stopped):
        run_set(tmp_path, plan=plan, on_pairs=stop_after(4))
    put(tmp_path, "README.md", "images/m_9.png")
    before = read_tree(tmp_path)
    for how in HOWS[1:]:
        with pytest.raises(DatasetError, match=rf"2 files .* {THERE}, the first is 'images/m_9.png'"):
            run_set(tmp_path, plan=plan, **how)
    with pytest.raises(DatasetError, match=r"a file of the dataset is .* 'README.md'"):
        DatasetLists(open_store(str(tmp_path)), plan).finish(incomplete=True)
    assert read_tree(tmp_path) == {**before, ".run/lists.lock": b""}
    remove_dataset(open_store(str(tmp_path)))
    assert files(tmp_path) == {"README.md": MINE, "images/m_9.png": MINE}


def test_what_stands_where_a_folder_or_a_file_has_to_be_is_left_alone(tmp_path: Path) -> None:
    put(tmp_path, "a/images", "b/masks/m_0.png/mine.txt", "c/.run", "d", "elsewhere/m_0.png")
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "f" / "images").mkdir(parents=True)
    (tmp_path / "f" / "images" / "m_1.png").symlink_to(tmp_path / "f" / "nowhere")
    before = read_tree(tmp_path)
    names = {"a": "'images'", "b": "'masks/m_0.png'", "c": "'.run'", "d": "is a file", "e": "leads outside"}
    for name, text in {**names, "f": "'images/m_1.png'"}.items():
        for how in HOWS:
            with pytest.raises(ValueError, match=text):
                run_set(tmp_path / name, **how)
    assert read_tree(tmp_path) == before


def test_a_link_in_the_place_of_a_pairs_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    run_set(tmp_path)
    whole = files(tmp_path)
    put(tmp_path, "mine.png")
    (tmp_path / "images" / "m_4.png").unlink()
    (tmp_path / "images" / "m_4.png").symlink_to(tmp_path / "mine.png")
    run_set(tmp_path, resume=True)
    assert files(tmp_path) == {**whole, "mine.png": MINE}
    (tmp_path / "images" / "m_4.png").unlink()
    (tmp_path / "images" / "m_4.png").symlink_to(tmp_path / "mine.png")
    remove_dataset(open_store(str(tmp_path)))
    assert files(tmp_path) == {"mine.png": MINE}


def test_lists_without_their_settings_are_not_taken_over(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run_set(tmp_path, on_pairs=stop_after(4))
    shutil.rmtree(tmp_path / "images")
    shutil.rmtree(tmp_path / "masks")
    (tmp_path / ".run" / "settings.json").unlink()
    with pytest.raises(DatasetError, match=r"the first is '.run/parts/00000000.partial.jsonl'"):
        run_set(tmp_path)


@pytest.mark.parametrize("kind", ["pairs", "webdataset"])
def test_a_run_killed_before_it_made_a_struck_pair_again_goes_on(kind: str, tmp_path: Path) -> None:
    plan, folder, generated = replace(PLAN, form=FORMATS[kind]), tmp_path / "set", []
    run_set(folder, plan=plan)
    whole = files(folder)
    for index in (5, 1, 9):
        (
            folder / plan.form.names(index - index % 8 if kind == "webdataset" else index, f"m_{index}")[0]
        ).write_bytes(b"")
        with pytest.raises(Stopped):
            run_set(folder, plan=plan, resume=True, on_pairs=stop_after(0))
    run_set(folder, Work(generated), plan=plan, resume=True)
    assert generated
    assert files(folder) == whole


def test_a_set_of_an_older_version_is_gone_on_with_and_replaced(tmp_path: Path) -> None:
    run_set(tmp_path)
    whole = files(tmp_path)
    (tmp_path / ".run" / "indexes.json").unlink()
    run_set(tmp_path, resume=True)
    assert files(tmp_path) == whole
    (tmp_path / ".run" / "indexes.json").unlink()
    run_set(tmp_path, plan=replace(PLAN, count=1), replace=True)
    assert len(files(tmp_path)) == 4


def test_a_worker_that_begins_while_another_writes_takes_its_files_for_the_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, begun = DatasetLists.write, []

    def listing(self: DatasetLists, chunk: int, lines: Sequence[dict[str, object]]) -> None:
        if not begun:
            begun.append(chunk)
            run_set(tmp_path, shard=Shard(1, 2))
        write(self, chunk, lines)

    monkeypatch.setattr(DatasetLists, "write", listing)
    assert run_set(tmp_path, shard=Shard(0, 2))


@pytest.mark.parametrize("alike", [False, True])
def test_names_are_compared_as_the_disk_does(
    alike: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = FORMATS["pairs"]
    old = replace(PLAN, count=1, settings={"seed": 2})
    run_set(tmp_path, plan=old)
    for name in form.names(0, "m_0"):  # as if the earlier run's mask had been called M_0
        put(tmp_path, name.replace("m_0", "M_0"))
    part = tmp_path / ".run" / "parts" / "00000000.jsonl"
    part.write_text(part.read_text().replace("/m_0.png", "/M_0.png"))
    shutil.rmtree(tmp_path / ".run" / "writing")
    monkeypatch.setattr(FolderStore, "is_same", lambda self, name, other: alike or name == other)
    if alike:
        run_set(tmp_path, replace=True)
    else:
        with pytest.raises(DatasetError, match=r"2 files .* 'images/m_0.png'"):
            run_set(tmp_path, replace=True)


def test_a_disk_says_whether_two_names_are_one_file(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "A.png").symlink_to(tmp_path / "a.png")
    store = FolderStore(tmp_path)
    assert store.is_same("a.png", "A.png") and store.is_same("a.png", "a.png")
    assert not store.is_same("a.png", "b.png") and not store.is_same("a.png", "none.png")


def test_an_object_of_a_pairs_name_is_never_replaced() -> None:
    place = "memory://bucket/others"
    store = open_store(place)
    store.write("masks/m_7.png", [MINE])
    for how in HOWS:
        with pytest.raises(DatasetError, match=rf"{THERE}, the first is 'masks/m_7.png'"):
            run_set(place, **how)
    assert (store.read("masks/m_7.png"), store.names("images"), store.names("")) == (MINE, [], [])
    store.remove("masks/m_7.png")
    store.write("prompt.json", [MINE])
    with pytest.raises(DatasetError, match=r"the first is 'prompt.json'"):
        run_set(place, replace=True)
    store.remove("prompt.json")
    store.write("masks/other.png", [MINE])
    assert run_set(place, replace=True)
    assert run_set(place, plan=replace(PLAN, count=3), replace=True)
    assert (store.read("masks/other.png"), len(store.names("images"))) == (MINE, 3)
