from __future__ import annotations

import errno
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from siamese_core.diffusers_backend.pair_encoding import BaseEncoder, encode_moments
from siamese_core.diffusers_backend.prompt_encoding import encode_prompts
from siamese_core.learning.encoded_pairs import encode_pairs, load_training_set
from siamese_core.learning.training_set import TrainingSet
from siamese_core.pairs.pair_files import Pair, PairError
from tests.support.small_models import SIDE, small_base


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    """Eleven pairs of random content, more than are encoded at a time; the second has no prompt."""
    rng = np.random.default_rng(0)
    (tmp_path / "pairs").mkdir()
    found = []
    for index in range(11):
        paths = (tmp_path / "pairs" / f"{index}.png", tmp_path / "pairs" / f"{index}_mask.png")
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(paths[0])
        Image.fromarray((rng.random((SIDE, SIDE)) > 0.5).astype(np.uint8) * 255).save(paths[1])
        found.append(Pair(str(index), *paths, None if index == 1 else "ba"[index % 2]))
    return found


def test_pairs_are_encoded_as_the_base_sees_them(tmp_path: Path, pairs: list[Pair]) -> None:
    base = small_base()
    encode_pairs(tmp_path / "encoded", "key", BaseEncoder(base), pairs, SIDE, default_prompt="d")
    data = load_training_set(tmp_path / "encoded", "key")

    assert data is not None
    assert len(data) == 11
    images = np.stack([np.asarray(Image.open(pair.image)) for pair in pairs])
    masks = np.stack([np.asarray(Image.open(pair.mask)) > 127 for pair in pairs])
    assert np.array_equal(data.images.permute(0, 2, 3, 1).numpy(), images)
    assert np.array_equal(data.masks.numpy(), masks)
    torch.testing.assert_close(data.moments, encode_moments(base.vae, data.images))
    prompts = [pair.prompt or "d" for pair in pairs]
    expected = encode_prompts(base.text_encoder, base.tokenizer, prompts)
    torch.testing.assert_close(data.contexts[data.prompt_index], expected)
    empty = encode_prompts(base.text_encoder, base.tokenizer, [""])
    torch.testing.assert_close(data.contexts[-1:], empty)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoded", "pairs"]


def test_a_set_made_from_something_else_is_ignored_and_can_be_replaced(
    tmp_path: Path, pairs: list[Pair]
) -> None:
    folder = tmp_path / "encoded"
    encode_pairs(folder, "key 1", BaseEncoder(small_base()), pairs, SIDE)
    assert load_training_set(folder, "key 2") is None

    encode_pairs(folder, "key 2", BaseEncoder(small_base()), pairs[:2], SIDE)
    found = load_training_set(folder, "key 2")
    assert found is not None
    assert len(found) == 2
    assert load_training_set(folder, "key 1") is None


def test_a_pair_that_cannot_be_read_leaves_the_earlier_set_as_it_is(
    tmp_path: Path, pairs: list[Pair]
) -> None:
    folder = tmp_path / "encoded"
    encode_pairs(folder, "key 1", BaseEncoder(small_base()), pairs[:2], SIDE)
    pairs[10].image.write_bytes(b"no image")

    with pytest.raises(PairError, match=re.escape("10.png")):
        encode_pairs(folder, "key 2", BaseEncoder(small_base()), pairs, SIDE)
    found = load_training_set(folder, "key 1")
    assert found is not None
    assert len(found) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoded", "pairs"]


def test_what_a_killed_run_left_is_replaced(tmp_path: Path, pairs: list[Pair]) -> None:
    torn = tmp_path / ".tmp-encoded"
    torn.mkdir()
    (torn / "images.npy").write_bytes(b"half")
    assert load_training_set(tmp_path / "encoded", "key") is None

    encode_pairs(tmp_path / "encoded", "key", BaseEncoder(small_base()), pairs[:2], SIDE)
    assert load_training_set(tmp_path / "encoded", "key") is not None
    assert not torn.exists()


@pytest.mark.parametrize("name", [field.name for field in fields(TrainingSet)])
@pytest.mark.parametrize("kept", [0, 7, 100, -5])
def test_a_torn_set_counts_as_none(tmp_path: Path, pairs: list[Pair], name: str, kept: int) -> None:
    folder = tmp_path / "encoded"
    encode_pairs(folder, "key", BaseEncoder(small_base()), pairs[:2], SIDE)
    path = folder / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:kept])

    assert load_training_set(folder, "key") is None


def test_a_set_is_read_from_the_disk_when_it_is_used(tmp_path: Path, pairs: list[Pair]) -> None:
    encode_pairs(tmp_path / "encoded", "key", BaseEncoder(small_base()), pairs, SIDE)
    data = load_training_set(tmp_path / "encoded", "key")

    assert data is not None
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs Linux's list of mapped files")
    assert "encoded/images.npy" in maps.read_text()
    assert "encoded/moments.npy" in maps.read_text()


def test_a_set_that_cannot_be_mapped_is_no_missing_one(
    tmp_path: Path, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be encoded again, or waited for, for ever."""
    encode_pairs(tmp_path / "encoded", "key", BaseEncoder(small_base()), pairs, SIDE, default_prompt="d")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(OSError, match="Cannot allocate"):
        load_training_set(tmp_path / "encoded", "key")
