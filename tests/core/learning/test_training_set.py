from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from siamese_core.architecture import LATENT_SCALE
from siamese_core.learning.settings import BatchSettings
from siamese_core.learning.training_set import TrainingSet, image_hint, mask_hint
from siamese_core.method.objective import TrainingBatch
from siamese_core.seeds import epoch_order
from siamese_core.settings import recorded
from tests.support.learning.training_sets import small_set


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


@pytest.mark.parametrize("settings", [batches(2, 0.5), batches(2, 0.5, draws_per_pair=3)])
@pytest.mark.parametrize("sampling", ["independent", "stratified"])
def test_processes_share_the_batch_that_one_would_have(settings: BatchSettings, sampling: Any) -> None:
    settings = replace(settings, timestep_sampling=sampling)
    data = small_set()
    alone = data.batch(42, 3, replace(settings, batch_size=6), "cpu")
    shares = [data.batch(42, 3, settings, "cpu", process, 3) for process in range(3)]

    for name, whole in vars(alone).items():
        assert torch.equal(torch.cat([getattr(share, name) for share in shares]), whole), name


def test_a_set_smaller_than_the_batch_of_all_processes_is_repeated() -> None:
    data = small_set(count=3)
    shares = [data.batch(42, 0, batches(4), "cpu", process, 2) for process in range(2)]

    assert all(len(share.latent) == 4 for share in shares)
    assert len(torch.cat([share.noise for share in shares]).unique(dim=0)) == 8


def test_a_batch_comes_apart_in_whole_pairs() -> None:
    batch = small_set().batch(42, 0, batches(5, draws_per_pair=2), "cpu")
    parts = batch.parts(3)

    assert [len(part.mask_hint) for part in parts] == [1, 2, 2]
    assert [len(part.latent) for part in parts] == [2, 4, 4]
    for name, whole in vars(batch).items():
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), whole), name
    assert len(batch.parts(9)) == 5


def unbalanced_set() -> TrainingSet:
    """Eleven pairs, of which nine have the first prompt and one each the two others."""
    data = small_set()
    rows = torch.arange(11) % len(data)
    return TrainingSet(
        images=data.images[rows],
        masks=data.masks[rows],
        moments=data.moments[rows],
        contexts=torch.arange(4.0).view(-1, 1, 1).expand(-1, 77, 4),
        prompt_index=torch.tensor([0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0]),
    )


def prompts_drawn(data: TrainingSet, settings: BatchSettings, steps: int) -> list[int]:
    drawn = [data.batch(42, step, settings, "cpu").context[:, 0, 0].long().tolist() for step in range(steps)]
    return [prompt for batch in drawn for prompt in batch]


def test_balanced_prompts_are_drawn_equally_often_however_rare_their_pairs_are() -> None:
    data = unbalanced_set()
    drawn = prompts_drawn(data, batches(4, balance_prompts=True), 9)
    assert [drawn.count(prompt) for prompt in range(3)] == [12, 12, 12]
    assert all(sorted(drawn[start : start + 3]) == [0, 1, 2] for start in range(0, 36, 3))
    unbalanced = prompts_drawn(data, batches(4), 11)
    assert [unbalanced.count(prompt) for prompt in range(3)] == [36, 4, 4]


def test_balanced_prompts_show_all_pairs_of_a_prompt_before_any_again() -> None:
    data = unbalanced_set()
    settings = batches(9, balance_prompts=True)
    shown = [
        place
        for step in range(3)
        for place, prompt in zip(
            data.places(42, step, settings), data.prompt_index[data.places(42, step, settings)], strict=True
        )
        if prompt == 0
    ]
    assert sorted(shown) == [0, 1, 2, 3, 5, 6, 7, 8, 10]


def test_balanced_batches_are_shared_by_processes_as_others_are() -> None:
    data = unbalanced_set()
    whole = data.batch(42, 5, batches(4, balance_prompts=True), "cpu")
    parts = [data.batch(42, 5, batches(2, balance_prompts=True), "cpu", k, 2) for k in range(2)]
    for name, value in vars(whole).items():
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), value), name


def test_a_record_from_before_balanced_prompts_is_that_of_unbalanced_ones() -> None:
    assert "balance_prompts" not in recorded(batches(4))
    assert recorded(batches(4, balance_prompts=True))["balance_prompts"] is True
