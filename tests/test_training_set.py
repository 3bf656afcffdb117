from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small_models import SIDE, small_base

from siamese_core.architecture import LATENT_SCALE
from siamese_core.base_training import encode_moments
from siamese_core.objective import TrainingBatch
from siamese_core.pairs import Pair
from siamese_core.seeds import epoch_order, generator
from siamese_core.text import encode_prompts
from siamese_core.training_set import (
    BatchSettings,
    TrainingSet,
    encode_pairs,
    image_hint,
    load_training_set,
    mask_hint,
    save_training_set,
)


def small_set(count: int = 5, side: int = 16) -> TrainingSet:
    """Random pairs; contexts are constants that tell which prompt they belong to, the last one is empty."""
    rng = generator(1)
    return TrainingSet(
        images=torch.randint(256, (count, 3, side, side), generator=rng).to(torch.uint8),
        masks=torch.rand((count, side, side), generator=rng) > 0.5,
        moments=torch.rand((count, 2, 4, side // 8, side // 8), generator=rng),
        contexts=torch.arange(3.0).view(3, 1, 1).repeat(1, 77, 4),
        prompt_index=torch.arange(count) % 2,
    )


def batches(size: int, dropout: float = 0.0, **others: Any) -> BatchSettings:
    return BatchSettings(batch_size=size, prompt_dropout=dropout, **others)


def assert_equal(actual: TrainingBatch | TrainingSet, expected: TrainingBatch | TrainingSet) -> None:
    for name, value in vars(expected).items():
        assert torch.equal(getattr(actual, name), value), name


def test_a_batch_is_a_function_of_the_set_and_the_arguments() -> None:
    data = small_set()
    first = data.batch(42, 3, batches(4, 0.5), "cpu")
    torch.manual_seed(9)
    state = torch.get_rng_state()
    data.batch(42, 2, batches(4, 0.5), "cpu")

    assert_equal(data.batch(42, 3, batches(4, 0.5), "cpu"), first)
    assert torch.equal(torch.get_rng_state(), state)
    for other in (data.batch(43, 3, batches(4, 0.5), "cpu"), data.batch(42, 4, batches(4, 0.5), "cpu")):
        assert not torch.equal(other.noise, first.noise)
        assert not torch.equal(other.latent, first.latent)


def test_a_batch_has_the_shapes_and_ranges_that_the_objective_wants() -> None:
    batch = small_set().batch(42, 0, batches(7, 0.1), "cpu")

    assert batch.latent.shape == batch.noise.shape == (7, 4, 2, 2)
    assert batch.mask_hint.shape == batch.image_hint.shape == (7, 3, 16, 16)
    assert batch.context.shape == (7, 77, 4)
    assert batch.timesteps.shape == (7,)
    assert ((batch.timesteps >= 0) & (batch.timesteps < 1000)).all()
    floats = (batch.latent, batch.noise, batch.mask_hint, batch.image_hint, batch.context)
    assert all(value.dtype == torch.float32 for value in floats)


def test_hints_and_prompts_belong_to_the_samples_of_the_epochs_order() -> None:
    data = small_set()
    batch = data.batch(42, 2, batches(4, 0.0), "cpu")
    chosen = epoch_order(42, 2, 4, len(data))

    assert torch.equal(batch.mask_hint, mask_hint(data.masks[chosen]))
    assert torch.equal(batch.image_hint, image_hint(data.images[chosen]))
    assert batch.context[:, 0, 0].long().tolist() == data.prompt_index[chosen].tolist()


def test_the_asked_share_of_prompts_is_dropped() -> None:
    data = small_set(side=8)

    def empty_share(dropout: float) -> float:
        return (data.batch(42, 0, batches(4000, dropout), "cpu").context[:, 0, 0] == 2).float().mean().item()

    assert empty_share(0.0) == 0.0
    assert empty_share(1.0) == 1.0
    assert empty_share(0.05) == pytest.approx(0.05, abs=0.015)


def test_latents_are_scaled_draws_from_the_posterior() -> None:
    data = small_set(count=1, side=8)
    latents = data.batch(42, 0, batches(4000, 0.0), "cpu").latent / LATENT_SCALE

    torch.testing.assert_close(latents.mean(dim=0), data.moments[0, 0], rtol=0, atol=0.07)
    torch.testing.assert_close(latents.std(dim=0), data.moments[0, 1], rtol=0.05, atol=0)


def test_timesteps_are_uniform() -> None:
    timesteps = small_set(side=8).batch(42, 0, batches(4000, 0.0), "cpu").timesteps

    assert timesteps.float().mean().item() == pytest.approx(499.5, abs=20)
    assert (timesteps <= 200).float().mean().item() == pytest.approx(0.201, abs=0.03)


def test_stratified_timesteps_lie_one_in_each_bin_and_are_uniform() -> None:
    settings = batches(8, timestep_sampling="stratified")
    drawn = torch.stack([small_set(side=8).batch(42, k, settings, "cpu").timesteps for k in range(500)])

    places = (drawn.double() / 125).sort(dim=1).values
    assert ((places.diff(dim=1) - 1).abs() < 0.02).all()  # a step apart, up to rounding
    for column in drawn.float().T:  # each sample's own is uniform, whichever bin it falls into
        assert column.mean().item() == pytest.approx(499.5, abs=50)
        assert (column <= 200).float().mean().item() == pytest.approx(0.201, abs=0.07)


def test_a_pair_can_be_drawn_several_times_and_keeps_one_hint() -> None:
    data = small_set()
    batch = data.batch(42, 1, batches(2, draws_per_pair=3), "cpu")
    chosen = epoch_order(42, 1, 2, len(data))

    assert len(batch.latent) == len(batch.noise) == len(batch.timesteps) == len(batch.context) == 6
    assert torch.equal(batch.mask_hint, mask_hint(data.masks[chosen]))
    assert torch.equal(batch.image_hint, image_hint(data.images[chosen]))
    prompts = batch.context[:, 0, 0].long().view(2, 3)
    assert prompts.tolist() == [[value] * 3 for value in data.prompt_index[chosen].tolist()]
    assert len(batch.timesteps.unique()) == len(batch.noise.unique(dim=0)) == 6


def test_mask_hints_are_zero_and_one_in_three_equal_channels() -> None:
    masks = torch.tensor([[[True, False], [False, True]]])

    assert mask_hint(masks).tolist() == [[[[1.0, 0.0], [0.0, 1.0]]] * 3]


def test_image_hints_span_zero_to_one() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)

    torch.testing.assert_close(image_hint(images).flatten(), torch.tensor([0.0, 0.2, 1.0]))


def test_pairs_are_encoded_as_the_base_sees_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    masks = rng.random((3, SIDE, SIDE)) > 0.5
    pairs = []
    for index, prompt in enumerate(["b", None, "a"]):
        paths = (tmp_path / f"{index}.png", tmp_path / f"{index}_mask.png")
        Image.fromarray(images[index]).save(paths[0])
        Image.fromarray(masks[index].astype(np.uint8) * 255).save(paths[1])
        pairs.append(Pair(str(index), *paths, prompt))
    base = small_base()

    data = encode_pairs(base, pairs, SIDE, default_prompt="d")

    assert len(data) == 3
    assert np.array_equal(data.images.permute(0, 2, 3, 1).numpy(), images)
    assert np.array_equal(data.masks.numpy(), masks)
    torch.testing.assert_close(data.moments, encode_moments(base.vae, data.images))
    expected = encode_prompts(base.text_encoder, base.tokenizer, ["b", "d", "a"])
    torch.testing.assert_close(data.contexts[data.prompt_index], expected)
    empty = encode_prompts(base.text_encoder, base.tokenizer, [""])
    torch.testing.assert_close(data.contexts[-1:], empty)


def test_a_cached_set_comes_back_equal(tmp_path: Path) -> None:
    save_training_set(tmp_path / "encoded.safetensors", small_set(), "key 1")

    found = load_training_set(tmp_path / "encoded.safetensors", "key 1")

    assert found is not None
    assert_equal(found, small_set())
    assert_equal(found.batch(1, 2, batches(3, 0.5), "cpu"), small_set().batch(1, 2, batches(3, 0.5), "cpu"))


def test_a_cache_made_from_something_else_is_ignored_and_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "encoded.safetensors"
    save_training_set(path, small_set(), "key 1")

    assert load_training_set(path, "key 2") is None
    save_training_set(path, small_set(count=2), "key 2")
    found = load_training_set(path, "key 2")
    assert found is not None
    assert len(found) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["encoded.safetensors"]


def test_no_cache_is_no_set(tmp_path: Path) -> None:
    assert load_training_set(tmp_path / "encoded.safetensors", "key") is None


@pytest.mark.parametrize("kept", [0, 7, 100, -5])
def test_a_torn_cache_counts_as_none(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "encoded.safetensors"
    save_training_set(path, small_set(), "key")
    path.write_bytes(path.read_bytes()[:kept])

    assert load_training_set(path, "key") is None


def test_foreign_files_count_as_none(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("not tensors at all, but long enough for a header")
    save_file({"weight": torch.zeros(2)}, tmp_path / "weights.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors", {"siamese.cache": "not json"})

    for path in tmp_path.iterdir():
        assert load_training_set(path, "key") is None
