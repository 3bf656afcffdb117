"""The lists of a dataset when workers and kills fall together, and a dataset that is replaced."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from siamese_core.dataset_generation.finished_pairs import DatasetError, DatasetLists, remove_dataset
from siamese_core.dataset_generation.generation_run import Shard
from siamese_core.dataset_generation.storage import FolderStore, StoreError, open_store
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set") / "whole"
    assert run_set(folder)
    return folder


def kill_at(patch: pytest.MonkeyPatch, method: str, name: str) -> None:
    """Stop whoever writes or removes ``name``."""
    original = getattr(FolderStore, method)

    def killed(self: FolderStore, given: str, *more: object) -> None:
        if given == name:
            raise Stopped
        original(self, given, *more)

    patch.setattr(FolderStore, method, killed)


def test_a_worker_that_finishes_takes_nothing_from_one_that_still_looks_at_its_share(
    whole: Path, tmp_path: Path
) -> None:
    folder, work = tmp_path / "set", Work()
    shutil.copytree(whole, folder)

    def other_worker(pairs: Sequence[FinishedPair], known: int) -> None:
        assert run_set(folder, work, shard=Shard(0, 2))

    assert run_set(folder, work, shard=Shard(1, 2), on_pairs=other_worker)
    assert work.batches == []
    assert files(folder) == files(whole)


@pytest.mark.parametrize("name", ["prompt.json", "manifest.jsonl"])
def test_a_run_killed_while_it_writes_the_lists_has_lost_nothing(
    name: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, work = tmp_path / "set", Work()
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        kill_at(patch, "write", name)
        run_set(folder)
    lists = DatasetLists(open_store(str(folder)), PLAN)
    assert (lists.state().pairs, lists.state().missing) == (COUNT, [])
    assert run_set(folder, work, resume=True)
    assert work.batches == []
    assert files(folder) == files(whole)


def test_a_set_whose_settings_are_gone_is_never_taken_for_a_new_one(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / ".run")
    other = replace(PLAN, settings={"seed": 9})
    with pytest.raises(DatasetError, match=r"48 files .* on no list .* the first is 'images/m_0.png'"):
        run_set(folder, plan=other, replace=True)
    assert files(folder) == files(whole)


@pytest.mark.parametrize("name", ["images/m_5.png", "manifest.jsonl", ".run/parts", ".run/settings.json"])
def test_a_run_killed_while_it_removes_a_set_removes_it_the_next_time(
    name: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, other = tmp_path / "set", replace(PLAN, count=3, settings={"seed": 9})
    shutil.copytree(whole, folder)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        kill_at(patch, "remove", name)
        run_set(folder, plan=other, replace=True)
    run_set(folder, plan=other, replace=True)
    run_set(tmp_path / "wanted", plan=other)
    assert files(folder) == files(tmp_path / "wanted")


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_what_a_killed_run_had_not_listed_is_removed_with_its_set(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan = tmp_path / "set", replace(PLAN, form=FORMATS[kind])

    def killed(self: DatasetLists, chunk: int, lines: object) -> None:
        raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(DatasetLists, "write", killed)
        run_set(folder, plan=plan)
    assert files(folder)
    (folder / "notes.txt").write_text("mine")
    remove_dataset(open_store(str(folder)))
    assert set(files(folder)) == {"notes.txt"}


def test_a_note_of_files_elsewhere_reaches_none(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(whole, folder)
    (tmp_path / "mine.png").write_text("mine")
    for text in ('{"files": ["../mine.png"]}', '{"files": [1]}', "[]", "{"):
        (folder / ".run" / "writing" / "0-of-1.json").write_text(text)
        with pytest.raises(DatasetError, match=r"writing/0-of-1\.json: damaged; remove the file"):
            remove_dataset(open_store(str(folder)))
    assert (tmp_path / "mine.png").exists()
    assert files(folder) == files(whole)


def test_a_replaced_set_leaves_no_index_of_the_old_one(tmp_path: Path) -> None:
    folder, plan = tmp_path / "set", replace(PLAN, form=FORMATS["nnunet"])
    run_set(folder, plan=plan)
    with pytest.raises(Stopped):
        run_set(folder, replace=True, on_pairs=stop_after(4))
    assert not (folder / "dataset.json").exists()


def test_workers_that_begin_at_once_with_other_settings_never_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, work = tmp_path / "set", Work()
    with monkeypatch.context() as patch:
        patch.setattr(
            DatasetLists, "check_place", lambda self, may_go_on: None
        )  # the other one has just begun
        run_set(folder, shard=Shard(0, 2))
        with pytest.raises(ResumeError, match="seed was 1 and is now 2"):
            run_set(folder, work, plan=replace(PLAN, settings={"seed": 2}), shard=Shard(1, 2))
    assert work.batches == []


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_a_chunk_without_any_mask_is_passed_over(kind: str, tmp_path: Path) -> None:
    plan = replace(PLAN, form=FORMATS[kind])
    gone = tuple(PLAN.indices(1))
    assert run_set(tmp_path / "set", Work(undrawable=gone), plan=plan)
    assert [line["index"] for line in manifest(tmp_path / "set")] == sorted({*range(COUNT)} - {*gone})


def test_an_address_of_a_folder_is_that_folder(tmp_path: Path) -> None:
    assert isinstance(open_store(f"file://{tmp_path}/set"), FolderStore)
    run_set(f"file://{tmp_path}/set")
    assert len(manifest(tmp_path / "set")) == COUNT


def test_a_remote_place_that_shows_half_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Remote:
        protocol = ("sftp", "ssh")

    monkeypatch.setattr("fsspec.core.url_to_fs", lambda place: (Remote(), "/set"))
    with pytest.raises(StoreError, match="no object store, so that a killed run could leave half"):
        open_store("sftp://host/set")
