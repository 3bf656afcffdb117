"""Images of two sets that look alike are found, strangers are not."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.phantoms.phantom import make_phantom
from training.preparation.near_duplicates import (
    HASH_BITS,
    NEAR,
    Match,
    hash_distances,
    near_duplicates,
    perceptual_hash,
)

Pixels = NDArray[np.uint8]


def phantom(seed: int) -> Pixels:
    return make_phantom(seed, 128).image


def recompressed(image: Pixels) -> Pixels:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=30)
    return np.asarray(Image.open(stream))


def halved(image: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] // 2)))


def brightened(image: Pixels) -> Pixels:
    return np.clip(image * 1.2, 0, 255).astype(np.uint8)


def hashes(*images: Pixels) -> NDArray[np.bool_]:
    return np.stack([perceptual_hash(image) for image in images])


def bits(*places: int) -> NDArray[np.bool_]:
    """A hash whose bits at ``places`` are set."""
    return np.isin(np.arange(HASH_BITS), places)


@pytest.mark.parametrize("change", [recompressed, halved, brightened])
def test_changed_copy_is_near_its_original_and_far_from_strangers(change: Callable[[Pixels], Pixels]) -> None:
    originals = [phantom(seed) for seed in range(6)]
    distances = hash_distances(hashes(*originals), hashes(*(change(image) for image in originals)))
    own = np.eye(6, dtype=bool)
    assert distances[own].max() <= NEAR < distances[~own].min()


def test_distances_are_the_numbers_of_differing_bits() -> None:
    generator = np.random.default_rng(0)
    first, second = (generator.random((count, HASH_BITS)) < 0.5 for count in (5, 7))
    expected = (first[:, None] != second[None]).sum(-1)
    np.testing.assert_array_equal(hash_distances(first, second), expected)


def test_only_images_of_different_sets_are_compared() -> None:
    same = np.stack([bits(), bits()])
    assert near_duplicates({"train": same}).closest == []
    found = near_duplicates({"train": same, "test": np.stack([bits(*range(100))])})
    assert found.count == 0
    assert [match.distance for match in found.closest] == [100, 100]


def test_matches_are_counted_by_sets_and_named_closest_first() -> None:
    found = near_duplicates(
        {
            "train": np.stack([bits(*range(200)), bits()]),
            "test/a": np.stack([bits(1, 2)]),
            "test/b": np.stack([bits(*range(150)), bits(5)]),
        },
        near=3,
    )
    assert found.counts == {("train", "test/a"): 1, ("train", "test/b"): 1, ("test/a", "test/b"): 1}
    assert found.count == 3
    assert found.closest[0] == Match(1, ("train", 1), ("test/b", 1))
    assert [match.distance for match in found.closest[:3]] == [1, 2, 3]


def test_limit_of_near_is_inclusive() -> None:
    sets = {"train": np.stack([bits()]), "test": np.stack([bits(*range(NEAR)), bits(*range(NEAR + 1))])}
    assert near_duplicates(sets).count == 1


def test_all_are_counted_though_only_the_closest_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.preparation.near_duplicates._ROWS", 2)  # more than one block
    sets = {"train": np.zeros((5, HASH_BITS), bool), "test": np.zeros((3, HASH_BITS), bool)}
    found = near_duplicates(sets, most=4)
    assert found.count == 15
    assert len(found.closest) == 4
    assert len({(match.first, match.second) for match in near_duplicates(sets).closest}) == 15
