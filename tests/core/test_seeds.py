from __future__ import annotations

import pytest
import torch

from siamese_core.seeds import epoch_order, generator, sample_seed, starting_noise, stream_seed


@pytest.mark.parametrize("seed", [0, 42, 2**64 - 1, -1])
def test_the_first_sample_has_the_seed_that_was_asked_for(seed: int) -> None:
    assert sample_seed(seed, 0) == seed


def test_seeds_of_many_samples_of_many_runs_are_distinct() -> None:
    seeds = {sample_seed(seed, index) for seed in range(50) for index in range(400)}

    assert len(seeds) == 50 * 400
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_seeds_stay_what_they_have_always_been() -> None:
    assert [sample_seed(42, index) for index in (1, 2, 1000)] == [
        17532488217563185893,
        8238092213399105094,
        12261869910918657759,
    ]
    assert sample_seed(-1, 1) == sample_seed(2**64 - 1, 1) == 7521888212171461645
    assert [stream_seed(42, "order", 0), stream_seed(42, "batch", 7)] == [
        9286359426055433654,
        7929994645530944669,
    ]


def test_streams_and_their_positions_are_distinct() -> None:
    streams = ("order", "batch", "noise", "vae", "unet")
    seeds = {stream_seed(seed, name, k) for seed in range(10) for name in streams for k in range(100)}

    assert len(seeds) == 10 * len(streams) * 100


def test_starting_noise_depends_on_its_seed_alone() -> None:
    torch.manual_seed(1)
    first = starting_noise(42, 8, 16)
    torch.manual_seed(2)
    state = torch.get_rng_state()

    assert torch.equal(starting_noise(42, 8, 16), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == (1, 4, 8, 16)
    assert not torch.equal(starting_noise(43, 8, 16), first)
    assert torch.equal(first, torch.randn((1, 4, 8, 16), generator=torch.manual_seed(42)))


def test_any_integer_is_a_seed() -> None:
    assert torch.equal(torch.rand(3, generator=generator(-1)), torch.rand(3, generator=generator(2**64 - 1)))


@pytest.mark.parametrize(("batch_size", "count"), [(4, 12), (4, 10), (3, 7), (10, 4), (7, 1), (1, 5)])
def test_every_epoch_sees_every_sample_once(batch_size: int, count: int) -> None:
    epochs = 6
    steps = -(-epochs * count // batch_size)
    batches = [epoch_order(9, step, batch_size, count) for step in range(steps)]

    assert all(len(batch) == batch_size for batch in batches)
    drawn = [index for batch in batches for index in batch]
    for epoch in range(epochs):
        assert sorted(drawn[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_the_order_differs_between_epochs_and_seeds() -> None:
    orders = {
        tuple(epoch_order(seed, step, batch_size=20, count=20)) for seed in range(3) for step in range(3)
    }

    assert len(orders) == 9


def test_the_order_of_a_step_does_not_depend_on_the_steps_before() -> None:
    torch.manual_seed(0)
    later = epoch_order(9, 5, 4, 10)
    torch.rand(3)

    assert [epoch_order(9, step, 4, 10) for step in range(6)][5] == later
