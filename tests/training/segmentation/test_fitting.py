"""The training of one segmentation network: what it sees, what it repeats, what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from siamese_core.pairs.pair_files import Pair, find_pairs, load_pair
from siamese_core.seeds import epoch_order, generator
from tests.support.phantoms.phantom import write_phantoms
from training.segmentation.batches import DRAWS, PairReader, augmented, read_ahead, training_batches
from training.segmentation.fitting import (
    FitError,
    FitSettings,
    Segmenter,
    fit,
    fit_settings,
    load_segmenter,
    predictions,
    save_segmenter,
)
from training.segmentation.networks.interface import SegmentationNetwork
from training.segmentation.networks.registry import NETWORKS, build_network
from training.segmentation.scores import dice_scores

SIDE = 64
CPU = torch.device("cpu")
SMALL = "small-unet"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    folder = tmp_path_factory.mktemp("phantoms") / "pairs"
    write_phantoms(folder, 24, size=SIDE)
    return find_pairs(folder)


def settings(steps: int = 2, learning_rate: float = 3e-3) -> FitSettings:
    return fit_settings(SMALL, 8, steps=steps, batch_size=4, resolution=SIDE, learning_rate=learning_rate)


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([tensor.flatten().float() for tensor in network.state_dict().values()])


def fitted(pairs: list[Pair], seed: int, steps: int = 2) -> torch.nn.Module:
    network = build_network(SMALL, seed=seed)
    fit(network, PairReader(SIDE), pairs, settings(steps), seed=seed, device=CPU)
    return network


class Uniform(SegmentationNetwork):
    """A network whose logits are those of its one weight, whatever it sees."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.backbone = torch.nn.Identity()
        self.logit = torch.nn.Parameter(torch.tensor(logit))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.logit.expand(len(images), 1, 4, 4),)

    def training_loss(self, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return self.logit * torch.nan


def test_a_seed_gives_the_same_network_under_any_global_random_state(pairs: list[Pair]) -> None:
    torch.manual_seed(1)
    first = weights(fitted(pairs, seed=5))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = weights(fitted(pairs, seed=5))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    assert not torch.equal(first, weights(fitted(pairs, seed=6)))


def test_a_short_training_finds_lesions_that_an_untrained_network_does_not(tmp_path: Path) -> None:
    for name, first, count in (("train", 0, 48), ("test", 500, 16)):
        write_phantoms(tmp_path / name, count, size=SIDE, first=first)
    test = find_pairs(tmp_path / "test")
    network = build_network(SMALL, seed=0)
    scores = []
    for steps in (0, 50):
        if steps:
            train = find_pairs(tmp_path / "train")
            numbers = fit_settings(SMALL, 48, steps=steps, batch_size=8, resolution=SIDE)
            fit(network, PairReader(SIDE), train, numbers, seed=0, device=CPU)
        found = predictions(Segmenter(network.eval(), SMALL, SIDE), PairReader(SIDE), test, CPU)
        scores.append(np.mean([dice_scores(mask[None], true[None])[0] for (_, true), mask in found]))
    assert scores[1] > max(0.6, scores[0] + 0.3)


def test_a_prediction_has_the_masks_own_size(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "large", 3, size=96)
    pairs = find_pairs(tmp_path / "large")
    segmenter = Segmenter(build_network(SMALL, seed=0).eval(), SMALL, SIDE)
    reader = PairReader(SIDE, own_masks=True)
    for ((image, mask), predicted), pair in zip(
        predictions(segmenter, reader, pairs, CPU), pairs, strict=True
    ):
        assert image.shape == (SIDE, SIDE, 3)
        assert mask.shape == predicted.shape == (96, 96)
        assert np.array_equal(mask, load_pair(pair, size=None).mask)


def test_a_probability_of_exactly_one_half_is_background(pairs: list[Pair]) -> None:
    for logit, share in ((0.0, 0.0), (1e-3, 1.0)):
        segmenter = Segmenter(Uniform(logit), "uniform", SIDE)
        (_, predicted), *_ = predictions(segmenter, PairReader(SIDE), pairs[:1], CPU)
        assert predicted.mean() == share


def test_all_pairs_are_seen_equally_often_and_few_are_repeated(pairs: list[Pair]) -> None:
    few = pairs[:3]
    order = [i for step in range(3) for i in epoch_order(7, step, 4, len(few))]
    assert sorted(order) == sorted(4 * [0, 1, 2])
    batches = list(
        training_batches(PairReader(SIDE), few, steps=3, batch_size=4, seed=7, device=torch.device("cpu"))
    )
    assert [tuple(images.shape) for images, _ in batches] == 3 * [(4, 3, SIDE, SIDE)]
    assert all(set(masks.unique().tolist()) <= {0.0, 1.0} for _, masks in batches)


def test_augmentation_moves_image_and_mask_alike() -> None:
    """On an image that shows its own mask both stay the same, up to the edge and the changed tones."""
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    mask = ((rows - 20) ** 2 / 90 + (columns - 38) ** 2 / 220 < 1).float()[None, None].repeat(32, 1, 1, 1)
    images, masks = augmented(mask.repeat(1, 3, 1, 1), mask, torch.rand(32, DRAWS, generator=generator(3)))
    assert images.shape == (32, 3, 64, 64) and float(images.min()) >= 0 and float(images.max()) <= 1
    shown = (images.mean(1, keepdim=True) > 0.4).float()
    assert float((shown - masks).abs().mean()) < 0.01
    areas = masks.mean((1, 2, 3)) / mask.mean()
    assert float(areas.min()) < 0.75 < 1.3 < float(areas.max())
    places = {tuple(masks[i, 0].nonzero().float().mean(0).round().int().tolist()) for i in range(32)}
    assert len(places) > 16


@pytest.mark.parametrize("mirror", [0.0, 0.9])
@pytest.mark.parametrize("quarters", range(4))
def test_augmentation_in_the_middle_of_its_ranges_is_a_symmetry_of_the_square(
    quarters: int, mirror: float
) -> None:
    image = torch.rand(1, 3, 8, 8, generator=generator(1))
    mask = (image[:, :1] > 0.5).float()
    uniform = torch.full((1, DRAWS), 0.5)
    uniform[0, 0], uniform[0, 1] = mirror, quarters / 4 + 0.1
    moved, moved_mask = augmented(image, mask, uniform)
    symmetries = [image.rot90(k, (2, 3)) for k in range(4)]
    symmetries = [turned.flip(3) if mirror < 0.5 else turned for turned in symmetries]
    assert sum(torch.allclose(moved, other, atol=1e-4) for other in symmetries) == 1
    assert torch.equal(moved_mask, (moved[:, :1] > 0.5).float())


def test_a_reader_keeps_what_fits_and_gives_the_same_either_way(pairs: list[Pair]) -> None:
    plain, kept = PairReader(SIDE), PairReader(SIDE, cache_bytes=2 * SIDE * SIDE * 4)
    for pair in (*pairs[:3], *pairs[:3]):
        for one, other in zip(plain.read(pair), kept.read(pair), strict=True):
            assert np.array_equal(one, other)
    assert kept.read(pairs[0])[0] is kept.read(pairs[0])[0]  # kept
    assert kept.read(pairs[2])[0] is not kept.read(pairs[2])[0]  # beyond the memory allowed


def test_reading_ahead_keeps_the_order_and_passes_errors_on(pairs: list[Pair], tmp_path: Path) -> None:
    reader = PairReader(SIDE)
    chunks = [pairs[:2], pairs[2:5], pairs[5:6]]
    found = list(read_ahead(reader, iter(chunks)))
    assert [len(chunk) for chunk in found] == [2, 3, 1]
    assert np.array_equal(found[1][0][0], reader.read(pairs[2])[0])
    missing = Pair("x", tmp_path / "x.png", tmp_path / "x.png", None)
    with pytest.raises(ValueError, match=r"x\.png"):
        list(read_ahead(reader, iter([[missing]])))
    assert list(read_ahead(reader, iter([]))) == []


def test_without_steps_a_network_gets_its_epochs_on_the_baseline() -> None:
    default = NETWORKS[SMALL]
    found = fit_settings(SMALL, 21, batch_size=10)
    assert found.steps == default.epochs * 3
    assert (found.learning_rate, found.resolution) == (default.learning_rate, default.resolution)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"steps": 0}, "--steps must be at least 1, not 0"),
        ({"batch_size": 1}, "--batch-size must be at least 2, not 1"),
        ({"resolution": 100}, "--resolution must be a multiple of 32 from 64 on, not 100"),
        ({"resolution": 0}, "--resolution must be a multiple of 32 from 64 on, not 0"),
        ({"learning_rate": 0.0}, "--learning-rate must be above 0, not 0"),
    ],
)
def test_a_number_that_does_not_fit_is_refused(numbers: dict[str, int], message: str) -> None:
    with pytest.raises(FitError, match=message):
        fit_settings(SMALL, 10, **numbers)  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_ends_the_training(pairs: list[Pair]) -> None:
    with pytest.raises(FitError, match="the loss is nan at step 0; lower --learning-rate"):
        fit(Uniform(0.0), PairReader(SIDE), pairs, settings(), seed=0, device=CPU)


def test_a_saved_network_predicts_the_same(pairs: list[Pair], tmp_path: Path) -> None:
    segmenter = Segmenter(fitted(pairs, seed=1), SMALL, SIDE)
    save_segmenter(tmp_path / "network.safetensors", segmenter)
    loaded = load_segmenter(tmp_path / "network.safetensors")
    assert (loaded.name, loaded.resolution) == (SMALL, SIDE)
    reader = PairReader(SIDE)
    for (_, first), (_, second) in zip(
        predictions(segmenter, reader, pairs, CPU), predictions(loaded, reader, pairs, CPU), strict=True
    ):
        assert np.array_equal(first, second)


def test_a_file_that_holds_no_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(b"not safetensors")
    with pytest.raises(FitError, match="cannot be read as a segmentation network"):
        load_segmenter(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(FitError, match="holds no segmentation network"):
        load_segmenter(path)
    with pytest.raises(FitError, match=r"missing\.safetensors: cannot be read"):
        load_segmenter(tmp_path / "missing.safetensors")
