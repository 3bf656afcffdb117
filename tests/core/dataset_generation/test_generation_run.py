"""Making a dataset: what a run lists, what a resumed one makes, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from siamese_core.dataset_generation.finished_pairs import DatasetError, DatasetLists, stored_plan
from siamese_core.dataset_generation.generation_run import Shard
from siamese_core.dataset_generation.storage import FolderStore, open_store
from siamese_core.pairs.export_formats import FORMATS, FinishedPair
from siamese_core.resume_check import ResumeError
from tests.support.datasets.generation_runs import (
    COUNT,
    PLAN,
    Stopped,
    Work,
    files,
    manifest,
    run_set,
    stop_after,
)
from tests.support.folders import full_disk, read_tree


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset that nothing interrupted."""
    folder = tmp_path_factory.mktemp("set") / "whole"
    assert run_set(folder)
    return folder


def test_a_set_lists_every_pair_and_its_files_in_order(whole: Path) -> None:
    lines = manifest(whole)
    assert [line["index"] for line in lines] == list(range(COUNT))
    for line in lines:
        name = f"m_{line['index']}.png"
        assert [file["name"] for file in line["files"]] == [f"images/{name}", f"masks/{name}"]
        assert all((whole / file["name"]).stat().st_size == file["bytes"] for file in line["files"])
    assert set(files(whole)) == {
        *("manifest.jsonl", "prompt.json"),
        *(f"{kind}/m_{index}.png" for kind in ("images", "masks") for index in range(COUNT)),
    }


def test_a_short_batch_is_filled_so_that_all_are_computed_alike(tmp_path: Path) -> None:
    work = Work()
    run_set(tmp_path / "set", work)
    assert {len(batch) for batch in work.batches} == {4}
    assert work.batches[-1] == [20, 21, 22, 20]


@pytest.mark.parametrize("workers", [2, 4])
def test_several_workers_make_the_set_of_one(workers: int, whole: Path, tmp_path: Path) -> None:
    complete = [run_set(tmp_path / "set", shard=Shard(number, workers)) for number in range(workers)]
    assert complete[0] is False
    assert complete[-1] is True
    assert files(tmp_path / "set") == files(whole)


def test_the_size_of_chunks_does_not_show(whole: Path, tmp_path: Path) -> None:
    for size in (1, 5, 100):
        run_set(tmp_path / str(size), plan=replace(PLAN, chunk_size=size))
        assert files(tmp_path / str(size)) == files(whole)


@pytest.mark.parametrize("generated", [1, 4, 9, 22])
def test_a_stopped_run_goes_on_with_what_is_missing(generated: int, whole: Path, tmp_path: Path) -> None:
    folder, rest = tmp_path / "set", Work()
    with pytest.raises(Stopped):
        run_set(folder, on_pairs=stop_after(generated))
    known: list[int] = []

    run_set(folder, rest, on_pairs=lambda pairs, number: known.append(number), resume=True)

    assert files(folder) == files(whole)
    listed = -(-generated // 4) * 4
    assert sum(known) == min(listed, COUNT)
    assert [batch[0] for batch in rest.batches] == list(range(listed, COUNT, 4))


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_every_format_resumes_and_is_shared(kind: str, tmp_path: Path) -> None:
    plan = replace(PLAN, form=FORMATS[kind])
    run_set(tmp_path / "whole", plan=plan)
    with pytest.raises(Stopped):
        run_set(tmp_path / "set", plan=plan, shard=Shard(0, 2), on_pairs=stop_after(9))
    for number in (1, 0):
        run_set(tmp_path / "set", plan=plan, shard=Shard(number, 2))
    assert files(tmp_path / "set") == files(tmp_path / "whole")
    line = manifest(tmp_path / "set")[5]
    (tmp_path / "set" / line["files"][0]["name"]).unlink()
    assert run_set(tmp_path / "set", plan=plan, resume=True)
    assert files(tmp_path / "set") == files(tmp_path / "whole")


def test_an_unfinished_set_can_be_listed_and_gone_on_with(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(Stopped):
        run_set(folder, on_pairs=stop_after(9))
    DatasetLists(open_store(str(folder)), PLAN).finish(incomplete=True)
    assert [line["index"] for line in manifest(folder)] == list(range(12))

    run_set(folder, resume=True)
    assert files(folder) == files(whole)


@pytest.mark.parametrize("damage", ["removed", "truncated"])
def test_a_lost_file_of_a_finished_set_is_made_again(damage: str, whole: Path, tmp_path: Path) -> None:
    folder, work = tmp_path / "set", Work()
    shutil.copytree(whole, folder)
    for name in ("images/m_6.png", "masks/m_21.png"):
        if damage == "removed":
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(b"")

    assert run_set(folder, work, resume=True)

    assert [batch[0] for batch in work.batches] == [4, 20]
    assert files(folder) == files(whole)


def test_a_run_killed_between_the_two_lists_of_a_chunk_lists_no_pair_twice(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    remove = FolderStore.remove

    def killed(self: FolderStore, name: str) -> None:
        if name.endswith("00000001.partial.jsonl"):
            raise Stopped
        remove(self, name)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(FolderStore, "remove", killed)
        run_set(folder)
    assert {path.name for path in (folder / ".run" / "parts").glob("00000001*")} == {
        "00000001.jsonl",
        "00000001.partial.jsonl",
    }
    run_set(folder, resume=True)
    assert files(folder) == files(whole)


def test_what_a_killed_run_left_torn_is_removed_and_another_workers_files_stay(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(Stopped):
        run_set(folder, on_pairs=stop_after(4))
    torn, foreign = folder / "images" / ".tmp-0-of-1-abc.png", folder / "images" / ".tmp-1-of-2-abc.png"
    torn.write_bytes(b"half")
    foreign.write_bytes(b"being written")
    run_set(folder, resume=True)
    assert not torn.exists()
    assert foreign.exists()


def test_a_set_is_not_gone_on_with_under_other_settings(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(Stopped):
        run_set(folder, on_pairs=stop_after(4))
    before = read_tree(folder)
    changed = replace(PLAN, settings={"seed": 2})
    with pytest.raises(ResumeError, match=r"the dataset belongs to another run: seed was 1 and is now 2"):
        run_set(folder, plan=changed, resume=True)
    with pytest.raises(ResumeError, match=r"batch_size was 4 and is now 2"):
        run_set(folder, plan=replace(PLAN, batch_size=2), resume=True)
    assert read_tree(folder) == before


def test_a_folder_that_holds_something_is_left_alone_unless_asked(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match="not empty"):
        run_set(folder)
    assert read_tree(folder) == {"notes.txt": b"mine"}
    run_set(folder, replace=True)
    with pytest.raises(DatasetError, match="--resume that one, or --overwrite it"):
        run_set(folder)
    run_set(folder, plan=replace(PLAN, count=3, settings={"seed": 9}), replace=True)
    assert len(manifest(folder)) == 3
    assert set(files(folder)) >= {"notes.txt", "images/m_2.png"}
    assert not (folder / "images" / "m_3.png").exists()


def test_two_runs_never_make_one_shard_at_a_time(tmp_path: Path) -> None:
    refusals = []

    def on_pairs(pairs: Sequence[FinishedPair], known: int) -> None:
        if pairs and not refusals:
            with pytest.raises(DatasetError, match="another run is making shard 0-of-1") as refusal:
                run_set(tmp_path / "set", resume=True)
            refusals.append(refusal)

    assert run_set(tmp_path / "set", on_pairs=on_pairs)
    assert refusals


def test_a_mask_that_cannot_be_drawn_is_skipped_and_said(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    work = Work(undrawable=(0, 5, 8, 9, 10, 11))
    assert run_set(folder, work)
    left = [index for index in range(COUNT) if index not in work.undrawable]
    assert [line["index"] for line in manifest(folder)] == left
    skipped = [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]
    assert skipped == [{"index": index, "skipped": f"no mask for {index}"} for index in work.undrawable]
    for index in left:
        name = f"images/m_{index}.png"
        assert (folder / name).read_bytes() == (whole / name).read_bytes()

    (folder / "images" / "m_1.png").unlink()
    before = files(folder)
    run_set(folder, Work(undrawable=work.undrawable), resume=True)
    assert files(folder) == {**before, "images/m_1.png": (whole / "images/m_1.png").read_bytes()}


def test_out_of_memory_halves_the_batch_and_records_it(tmp_path: Path) -> None:
    work = Work(most=3)
    assert run_set(tmp_path / "set", work)
    assert {len(batch) for batch in work.batches} == {2}
    assert {line["sampler"]["batch_size"] for line in manifest(tmp_path / "set")} == {2}
    with pytest.raises(DatasetError, match="out of memory with one image at a time"):
        run_set(tmp_path / "other", Work(most=0))


def test_a_full_disk_ends_the_run_and_loses_nothing(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(Stopped):
        run_set(folder, on_pairs=stop_after(4))
    with full_disk(), pytest.raises(DatasetError, match="make room on the disk") as refusal:
        run_set(folder, resume=True)
    assert str(folder) in str(refusal.value)
    assert not list(folder.rglob(".tmp-*"))
    run_set(folder, resume=True)
    assert files(folder) == files(whole)


def test_a_folder_removed_while_running_stays_removed(tmp_path: Path) -> None:
    folder = tmp_path / "set"

    def on_pairs(pairs: Sequence[FinishedPair], known: int) -> None:
        if pairs:
            shutil.rmtree(folder)

    with pytest.raises(DatasetError, match="no longer there"):
        run_set(folder, on_pairs=on_pairs)
    assert not folder.exists()


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "null",
        '{"index": 0}',
        '{"index": "0", "files": []}',
        '{"index": 0, "files": [1]}',
    ],
)
def test_a_damaged_list_is_named(line: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(Stopped):
        run_set(folder, on_pairs=stop_after(4))
    part = next((folder / ".run" / "parts").iterdir())
    part.write_text(line + "\n")
    with pytest.raises(DatasetError, match=rf"{part.name}: line 1 is damaged"):
        run_set(folder, resume=True)


def test_a_list_that_names_files_outside_reaches_none(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    run_set(folder)
    (tmp_path / "mine.txt").write_text("mine")
    path = folder / ".run" / "parts" / "00000000.jsonl"
    path.write_text(path.read_text().replace("images/m_0.png", "../mine.txt"))
    with pytest.raises(DatasetError, match="line 1 is damaged"):
        run_set(folder, replace=True)
    assert (tmp_path / "mine.txt").exists()


def test_damaged_settings_are_named(tmp_path: Path) -> None:
    run_set(tmp_path / "set")
    settings = tmp_path / "set" / ".run" / "settings.json"
    for text in ("{", "[]", "{}", '{"format": "pairs", "pairs": "x", "batch_size": 1, "chunk_size": 1}'):
        settings.write_text(text)
        with pytest.raises(DatasetError, match="damaged"):
            stored_plan(open_store(str(tmp_path / "set")))


def test_an_object_store_holds_the_same_set(whole: Path) -> None:
    place = "memory://bucket/set"
    with pytest.raises(Stopped):
        run_set(place, on_pairs=stop_after(9))
    assert run_set(place, resume=True)
    store = open_store(place)
    for name, content in files(whole).items():
        assert store.read(name) == content
    with pytest.raises(DatasetError, match="begun before"):
        run_set(place)
    store.remove("images/m_3.png")
    work = Work()
    run_set(place, work, resume=True)
    assert [batch[0] for batch in work.batches] == [0]
