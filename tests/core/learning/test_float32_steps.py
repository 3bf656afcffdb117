"""Steps on float32 copies: weights stay where and what they are, and lose no small change to rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from siamese_core.diffusers_backend.siamese_training import start_networks
from siamese_core.learning import float32_steps
from siamese_core.learning.averaged_weights import AveragedWeights
from siamese_core.learning.engine import SingleProcess
from siamese_core.learning.float32_steps import Float32Steps, hold_in_bfloat16, to_bfloat16
from siamese_core.learning.optimiser_step import Trainer
from siamese_core.learning.settings import BatchSettings, OptimiserSettings
from siamese_core.method.objective import ObjectiveSettings
from tests.support.learning.training_sets import small_set
from tests.support.small_models import small_base

BF16_BITS = 7  # of the mantissa, besides the leading one
adamw = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1, fused=True)


def test_stochastic_rounding_gives_a_neighbour_and_the_value_itself_in_the_mean() -> None:
    spacing = 2.0**-BF16_BITS
    value = -(1 + 0.25 * spacing)
    rounded = to_bfloat16(torch.full((40_000,), value), torch.Generator().manual_seed(1))

    assert set(rounded.tolist()) == {-1.0, -(1 + spacing)}
    assert torch.equal(rounded.bfloat16().float(), rounded)
    five_deviations = 5 * spacing * (0.25 * 0.75 / 40_000) ** 0.5
    assert rounded.double().mean() == pytest.approx(value, abs=five_deviations)


def test_what_bfloat16_can_hold_is_not_rounded() -> None:
    exact = torch.tensor([0.0, -0.0, 1.0, -1.5, 2.0**-100, 3e38]).bfloat16().float()
    assert torch.equal(to_bfloat16(exact, torch.Generator().manual_seed(1)), exact)


def test_changes_below_the_spacing_of_bfloat16_add_up() -> None:
    weight = nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
    optimiser = Float32Steps([{"params": [weight]}], partial(torch.optim.SGD, lr=1e-4))
    for step in range(100):
        weight.grad = torch.ones_like(weight)
        optimiser.seed = step
        optimiser.step()

    assert weight.dtype == torch.bfloat16
    assert float(weight.detach().float().mean()) == pytest.approx(1 - 100 * 1e-4, abs=1e-3)


def parameters() -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(3)
    shapes = ((8, 4, 3, 3), (8,), (16, 8))
    return [nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]


def in_channels_last() -> nn.Parameter:
    weight = parameters()[0]
    weight.data = weight.data.to(memory_format=torch.channels_last)
    return weight


def give_gradients(weights: list[nn.Parameter], step: int) -> None:
    rng = torch.Generator().manual_seed(step)
    for weight in weights:
        weight.grad = torch.empty_like(weight).copy_(torch.randn(weight.shape, generator=rng))


def test_float32_weights_step_as_by_the_optimiser_alone_and_either_goes_on_from_the_others_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(float32_steps, "_BUCKET_BYTES", 1)  # every weight is a bucket
    wanted, found = parameters(), parameters()
    alone = adamw([{"params": wanted[:2]}, {"params": wanted[2:], "lr": 1e-3}])
    copied = Float32Steps([{"params": found[:2]}, {"params": found[2:], "lr": 1e-3}], adamw)
    assert [group["lr"] for group in copied.param_groups] == [1e-2, 1e-3]
    for step in range(4):
        for optimiser, weights in ((alone, wanted), (copied, found)):
            give_gradients(weights, step)
            optimiser.param_groups[0]["lr"] = 1e-2 / (1 + step)
            optimiser.step()
        assert all(map(torch.equal, found, wanted))
        if step == 1:
            theirs, ours = copy.deepcopy(alone.state_dict()), copy.deepcopy(copied.state_dict())
            alone.load_state_dict(ours)
            copied.load_state_dict(theirs)
    assert all(weight.grad is None for weight in found)


def test_a_weight_in_channels_last_stays_so_and_steps_as_any_other() -> None:
    plain, strided = parameters()[:1], [in_channels_last()]
    for weights in (plain, strided):
        optimiser = Float32Steps([{"params": weights}], adamw)
        for step in range(3):
            give_gradients(weights, step)
            optimiser.step()
    assert torch.equal(plain[0], strided[0])
    assert strided[0].is_contiguous(memory_format=torch.channels_last)


class Replacing(torch.optim.SGD):
    """Gives weights that are not contiguous a new storage, as the optimisers of bitsandbytes do."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.data, weight.grad = weight.data.contiguous(), weight.grad.contiguous()
        super().step(closure)


def test_whoever_shares_a_weights_storage_sees_its_steps() -> None:
    weight = in_channels_last()
    shared, before = weight.detach(), weight.detach().clone()
    weight.grad = torch.ones_like(weight)
    Float32Steps([{"params": [weight]}], partial(Replacing, lr=0.5)).step()

    torch.testing.assert_close(shared, before - 0.5)
    assert shared.data_ptr() == weight.data_ptr()


def test_a_weight_without_a_gradient_stays_as_it_is() -> None:
    weights = parameters()
    before = weights[1].detach().clone()
    weights[0].grad = torch.ones_like(weights[0])
    Float32Steps([{"params": weights}], adamw).step()
    assert torch.equal(weights[1], before)


def test_layers_are_held_in_bfloat16_and_their_biases_and_normalisations_in_float32() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 4).requires_grad_(False))
    hold_in_bfloat16(network)
    kinds = {name: (weight.dtype, weight.requires_grad) for name, weight in network.named_parameters()}
    assert kinds == {
        "0.weight": (torch.bfloat16, True),
        "0.bias": (torch.float32, True),
        "1.weight": (torch.float32, True),
        "1.bias": (torch.float32, True),
        "2.weight": (torch.bfloat16, False),
        "2.bias": (torch.float32, False),
    }


def test_the_average_of_bfloat16_weights_follows_small_changes() -> None:
    weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    average = AveragedWeights([weight], 0.999)
    average.updates = 100_000
    with torch.no_grad():
        weight.add_(2.0**-BF16_BITS)
    average.update()
    torch.testing.assert_close(average.averages[0], torch.full((3,), 1 + 0.001 * 2.0**-BF16_BITS))


Stepping = tuple[Trainer, Callable[[int], dict[str, Tensor]]]


def stepping(settings: OptimiserSettings) -> Stepping:
    """A trainer of bfloat16 weights in channels_last, as on a GPU, and its step."""
    engine = SingleProcess()
    networks = start_networks(
        copy.deepcopy(small_base()),
        "dense",
        1,
        engine.device,
        bfloat16_weights=settings.weight_precision == "bf16",
    )
    for module in (networks.control, networks.encoder, networks.decoder):
        module.to(memory_format=torch.channels_last)
    networks.shadow = networks.decoder.shadow()
    trainer = Trainer.create(networks, settings, engine, "bf16")
    data = small_set(count=5, side=64)
    contexts = torch.linspace(-1, 1, 3 * 77 * 32).view(3, 77, 32)
    data = type(data)(**{**vars(data), "contexts": contexts})
    step = trainer.step_function(data, ObjectiveSettings(), BatchSettings(batch_size=2), settings, 60, 42, 2)
    return trainer, step


OPTIMISERS = ("adamw", "adamw8bit")


def settings_of(optimiser: Any, **others: Any) -> OptimiserSettings:
    if optimiser == "adamw8bit":
        pytest.importorskip("bitsandbytes", reason="the extra 'eightbit' is not installed")
    return OptimiserSettings(learning_rate=1e-3, optimiser=optimiser, **others)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_resumed_training_of_bfloat16_weights_repeats_the_uninterrupted_one(
    optimiser: str, tmp_path: Path
) -> None:
    settings = settings_of(optimiser, weight_precision="bf16", ema_decay=0.9)
    whole, step = stepping(settings)
    for k in range(2):
        step(k)
    whole.state.write(tmp_path)
    resumed, step_again = stepping(settings)
    resumed.state.read(tmp_path)()
    for k in range(2, 4):
        assert step(k)["loss"] == step_again(k)["loss"]

    pairs = zip(whole.networks.trained_parameters(), resumed.networks.trained_parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert whole.average is not None and resumed.average is not None
    assert all(map(torch.equal, whole.average.averages, resumed.average.averages))


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("weight_precision", ["fp32", "bf16"])
def test_the_image_branchs_decoder_follows_the_trained_one(optimiser: str, weight_precision: str) -> None:
    trainer, step = stepping(settings_of(optimiser, weight_precision=weight_precision))
    before = [weight.detach().clone() for weight in trainer.networks.decoder.parameters()]
    step(0)

    trained, shadow = trainer.networks.decoder.parameters(), trainer.networks.shadow.parameters()
    changed = 0
    for old, weight, follower in zip(before, trained, shadow, strict=True):
        assert torch.equal(weight, follower)
        changed += not torch.equal(weight, old)
    assert changed == len(before)
