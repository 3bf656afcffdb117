"""Atomic writes, natural order, digests and path containment."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from siamese_core.errors import UserError
from siamese_core.files import (
    InUseError,
    atomic_path,
    contained_path,
    file_digest,
    natural_key,
    portable_stem,
    whole_folder,
    write_bytes_atomic,
    write_text_atomic,
)


def test_bytes_replace_the_old_content_and_leave_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "model.bin"
    target.write_bytes(b"old")
    write_bytes_atomic(target, b"new\r\n\x00")
    assert target.read_bytes() == b"new\r\n\x00"
    assert list(tmp_path.iterdir()) == [target]


def test_text_is_written_as_utf8_with_plain_newlines(tmp_path: Path) -> None:
    target = tmp_path / "note.txt"
    write_text_atomic(target, "Größe\nzwei\n")
    assert target.read_bytes() == "Größe\nzwei\n".encode()


@pytest.mark.parametrize("letter", ["a", "ß", "細", "🔬"])
def test_a_long_name_becomes_a_stem_that_a_file_system_takes(tmp_path: Path, letter: str) -> None:
    stem = portable_stem(300 * letter)
    (tmp_path / f"{stem}.safetensors").touch()
    assert len(stem) >= 60
    assert portable_stem(119 * "a" + ". b") == 119 * "a"


def test_a_failed_block_keeps_the_old_content_and_removes_the_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="interrupted"), atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError("interrupted")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_temporary_path_is_a_hidden_sibling_with_the_same_suffix(tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".safetensors"
        assert temporary.name.startswith(".")
        assert not target.exists()
        temporary.write_bytes(b"whole")
    assert target.read_bytes() == b"whole"


def test_a_writer_that_replaces_the_temporary_file_is_fine(tmp_path: Path) -> None:
    target = tmp_path / "model.bin"
    other = tmp_path / "other"
    other.write_bytes(b"renamed")
    with atomic_path(target) as temporary:
        other.replace(temporary)
    assert target.read_bytes() == b"renamed"


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_bytes_atomic(tmp_path / "missing" / "file", b"")


def test_a_folder_in_the_way_leaves_no_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "taken"
    (target / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        write_bytes_atomic(target, b"data")
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(os.name == "nt", reason="permission bits are those of POSIX")
def test_a_written_file_has_ordinary_permissions(tmp_path: Path) -> None:
    plain, atomic = tmp_path / "plain", tmp_path / "atomic"
    plain.write_bytes(b"")
    write_bytes_atomic(atomic, b"")
    assert atomic.stat().st_mode == plain.stat().st_mode


def test_numbers_in_names_sort_by_value_and_case_is_ignored() -> None:
    names = ["img10.png", "B.png", "img2.png", "a.png", "2.png", "img2b.png", "10.png", "Img1.png", ""]
    assert sorted(names, key=natural_key) == [
        "", "2.png", "10.png", "a.png", "B.png", "Img1.png", "img2.png", "img2b.png", "img10.png",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["²³", "٣", "x²1"])
def test_digits_of_other_scripts_do_not_break_the_order(name: str) -> None:
    assert sorted([name, "1"], key=natural_key)


def test_the_digest_is_the_sha256_of_the_whole_content(tmp_path: Path) -> None:
    content = b"block" * 500_000
    path = tmp_path / "large"
    path.write_bytes(content)
    assert file_digest(path) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "relative", ["masks/a.png", Path("masks") / "a.png", "x/../masks/a.png", "new.png", "."]
)
def test_a_path_inside_the_root_is_resolved(tmp_path: Path, relative: str | Path) -> None:
    assert contained_path(tmp_path, relative) == (tmp_path / relative).resolve()


def test_an_absolute_path_inside_the_root_is_accepted(tmp_path: Path) -> None:
    assert contained_path(tmp_path, tmp_path / "a.png") == (tmp_path / "a.png").resolve()


@pytest.mark.parametrize("relative", ["..", "../root-beside/a.png", "a/../../b", "/etc/passwd"])
def test_a_path_that_leads_outside_is_refused(tmp_path: Path, relative: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(
        ValueError, match=r"leads outside of the folder '.*root'; give a path inside"
    ) as caught:
        contained_path(root, relative)
    assert f"'{relative}'" in str(caught.value)


def test_a_symbolic_link_to_the_outside_is_refused_and_one_to_the_inside_is_not(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "inside").mkdir()
    (root / "away").symlink_to(outside)
    (root / "near").symlink_to(root / "inside")
    with pytest.raises(ValueError, match="leads outside"):
        contained_path(root, "away/a.png")
    assert contained_path(root, "near/a.png") == (root / "inside" / "a.png").resolve()


def test_a_root_that_is_itself_a_symbolic_link_contains_its_files(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert contained_path(tmp_path / "link", "a.png") == (tmp_path / "real" / "a.png").resolve()


def test_a_whole_folder_replaces_the_old_one_only_when_it_is_finished(tmp_path: Path) -> None:
    target = tmp_path / "set"
    target.mkdir()
    (target / "old").write_text("old")
    torn = tmp_path / ".tmp-set"
    torn.mkdir()
    (torn / "torn").write_text("left by a killed run")

    with pytest.raises(KeyboardInterrupt), whole_folder(target) as folder:
        assert not list(folder.iterdir())
        (folder / "new").write_text("new")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "old"]

    with whole_folder(target) as folder:
        (folder / "new").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "new"]


def test_a_whole_folder_that_another_process_is_writing_is_left_to_it(tmp_path: Path) -> None:
    target = tmp_path / "set"
    with whole_folder(target, replace=False) as folder:
        (folder / "first").write_text("first")
        told = pytest.raises(InUseError, match="set: another process is writing it")
        with told, whole_folder(target, replace=False):
            raise AssertionError("not reached")
        (folder / "second").write_text("second")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["first", "second", "set"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_whole_folder_needs_no_lock_where_there_are_none(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems refuse locks."""

    def refuse(*_: object) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    with whole_folder(tmp_path / "set") as folder:
        (folder / "new").write_text("new")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "set"]


@pytest.mark.parametrize("name", ["x" * 256, "a/" + "é" * 200])
def test_a_name_longer_than_any_file_system_takes_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than 255 bytes"):
        contained_path(tmp_path, name)
