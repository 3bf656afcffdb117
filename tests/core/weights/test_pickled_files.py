"""Pickled checkpoints are read as weights and nothing else, whatever their author wrote into them."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from siamese_core.errors import CheckpointError
from siamese_core.weights.pickled_files import read_pickled

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


class Touches:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


class Global:
    """Names a function of a module that is harmless in itself."""

    def __reduce__(self) -> tuple[object, ...]:
        return np.polyfit, ([1], [1], 0)


class ModelCheckpoint:
    """As Lightning names its callback in what it saves."""


ModelCheckpoint.__module__ = "pytorch_lightning.callbacks.model_checkpoint"


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def assert_weights(found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == WEIGHTS.keys()
    for name, value in WEIGHTS.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".pt", ".bin"])
@pytest.mark.parametrize(
    "content",
    [WEIGHTS, {"state_dict": WEIGHTS}, {"model": WEIGHTS}],
    ids=["plain", "state_dict", "only entry"],
)
def test_weights_are_found_where_programs_put_them(tmp_path: Path, suffix: str, content: Any) -> None:
    tensors, others = read_pickled(saved(tmp_path / f"model{suffix}", content))

    assert_weights(tensors)
    assert others == []


def test_an_ordinary_lightning_file_is_read_and_what_is_no_weight_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = type(pickle)("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = ModelCheckpoint  # type: ignore[attr-defined]
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(__import__("sys").modules, name, type(pickle)(name))
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    path = saved(
        tmp_path / "epoch=9.ckpt",
        {
            "state_dict": {**WEIGHTS, "note": "by me"},
            "epoch": 9,
            "callbacks": {ModelCheckpoint: {"best": np.float64(0.5), "type": np.dtype("float64")}},
            "optimizer_states": [{"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}}],
        },
    )
    before = set(torch.serialization.get_safe_globals())  # kept without an order

    tensors, others = read_pickled(path)

    assert_weights(tensors)
    assert others == ["note", "epoch", "callbacks", "optimizer_states"]
    assert set(torch.serialization.get_safe_globals()) == before


def test_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    tensors, _ = read_pickled(saved(tmp_path / "model.pth", {"w": torch.zeros(1 << 20)}))

    (mapped,) = (line for line in Path("/proc/self/maps").read_text().splitlines() if "model.pth" in line)
    assert mapped
    assert tensors["w"].shape == (1 << 20,)


@pytest.mark.parametrize("inside", [lambda evil: evil, lambda evil: {"state_dict": {**WEIGHTS, "x": evil}}])
def test_a_pickle_that_runs_code_is_refused_by_the_name_it_gives(tmp_path: Path, inside: Any) -> None:
    witness = tmp_path / "witness"
    path = saved(tmp_path / "evil.pth", inside(Touches(witness)))

    with pytest.raises(CheckpointError, match=r"evil\.pth' names '[\w.]+', which is no weight.*nothing of"):
        read_pickled(path)
    assert not witness.exists()


def test_any_other_name_is_refused_too(tmp_path: Path) -> None:
    path = saved(tmp_path / "other.ckpt", {**WEIGHTS, "x": Global()})

    with pytest.raises(CheckpointError, match=r"names 'numpy.*polyfit', which is no weight"):
        read_pickled(path)


def test_a_pickle_outside_of_an_archive_is_not_even_opened(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    path = tmp_path / "old.pth"
    path.write_bytes(pickle.dumps(Touches(witness)))

    with pytest.raises(CheckpointError, match=r"no checkpoint in the format of PyTorch 1\.6 or newer"):
        read_pickled(path)
    assert not witness.exists()


@pytest.mark.parametrize("kept", [0.3, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = saved(tmp_path / "torn.pth", WEIGHTS)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])

    with pytest.raises(CheckpointError, match=r"torn\.pth' is cut off"):
        read_pickled(path)


def test_damage_inside_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth", WEIGHTS)
    content = bytearray(path.read_bytes())
    start = content.index(b"a.weight")
    content[start - 40 : start + 60] = bytes(100)
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=r"model\.pth'"):
        read_pickled(path)


@pytest.mark.parametrize(
    "text", ["version https://git-lfs.github.com/spec/v1\noid sha256:12", "<!DOCTYPE html><html>", "läuft"]
)
def test_a_text_file_is_called_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.pth"
    path.write_text(text, "utf-8")

    with pytest.raises(CheckpointError, match=r"model\.pth' is a text file \('.*no checkpoint"):
        read_pickled(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pth").touch()

    with pytest.raises(CheckpointError, match="no checkpoint in the format"):
        read_pickled(tmp_path / "model.pth")


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(50 << 20))

    with pytest.raises(CheckpointError, match=r"compressed archive.*would unpack to 52,428,800"):
        read_pickled(path)


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bomb/data.pkl", bytes(100_000))
        archive.filelist *= 50

    with pytest.raises(CheckpointError, match=r"compressed archive.*would unpack to 5,000,000"):
        read_pickled(path)


def test_a_name_that_another_library_has_allowed_is_refused_all_the_same(tmp_path: Path) -> None:
    path = saved(tmp_path / "other.ckpt", {**WEIGHTS, "x": Global()})

    with torch.serialization.safe_globals([np.polyfit]), pytest.raises(CheckpointError, match="polyfit"):
        read_pickled(path)


def test_a_tensor_that_claims_more_than_the_file_stores_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth", {"w": torch.zeros(1).expand(1 << 40)})

    with pytest.raises(CheckpointError, match=r"'w' claims 1,099,511,627,776 values"):
        read_pickled(path)


def test_a_sparse_tensor_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth", {"w": torch.eye(3).to_sparse()})

    with pytest.raises(CheckpointError, match="no plain tensor"):
        read_pickled(path)


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 3}, "text"])
def test_a_file_without_weights_says_so(tmp_path: Path, content: object) -> None:
    with pytest.raises(CheckpointError, match=r"model\.pth' holds no weights"):
        read_pickled(saved(tmp_path / "model.pth", content))
