"""The segmentation networks: shapes, sizes, seeds, weight files, and that each can learn."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from siamese_core.pairs.pair_files import find_pairs, load_pair
from tests.support.phantoms.phantom import make_phantom
from training.pretrained.efficientnet_lite import efficientnet_lite
from training.pretrained.weight_files import WeightsError
from training.segmentation.batches import image_tensor, normalised
from training.segmentation.networks.registry import NETWORKS, NetworkError, build_network
from training.segmentation.scores import dice_scores

ALL = sorted(NETWORKS)
DOWNLOADED = [name for name in ALL if NETWORKS[name].has_backbone and name != "lite-unet"]
DATA = os.environ.get("SIAMESE_DATA")
OVERFIT_RATE = 5e-4

Batch = tuple[Tensor, Tensor]


@cache
def shared_network(name: str) -> nn.Module:
    """For tests that leave the weights alone."""
    return build_network(name, seed=0).eval()


def batch(images: list[np.ndarray], masks: list[np.ndarray]) -> Batch:
    return normalised(image_tensor(images)), torch.from_numpy(np.stack(masks))[:, None].float()


def kvasir_batch(count: int, side: int) -> Batch:
    if not DATA:
        pytest.skip("needs SIAMESE_DATA, the folder that holds kvasir-seg")
    pairs = find_pairs(Path(DATA) / "kvasir-seg", default_prompt="a polyp")[:count]
    loaded = [load_pair(pair, size=(side, side)) for pair in pairs]
    return batch([pair.image for pair in loaded], [pair.mask for pair in loaded])


@cache
def phantom_batch() -> Batch:
    phantoms = [make_phantom(seed, 64) for seed in range(2)]
    return batch([phantom.image for phantom in phantoms], [phantom.mask > 0 for phantom in phantoms])


def train(
    network: nn.Module,
    pairs: Batch,
    steps: int,
    rate: float,
    done: Callable[[], bool] = lambda: False,
) -> list[float]:
    """AdamW on one batch, warmed up over 20 steps, ``done`` asked every 20; returns the losses."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate)
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network.train()
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = rate * min(1, (step + 1) / 20)
            loss = network.training_loss(*pairs)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_value_(network.parameters(), 0.5)
            optimiser.step()
            losses.append(float(loss.detach()))
            if step % 20 == 19 and done():
                break
    return losses


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [(64, 64), (96, 160)], ids=["square", "oblong"])
def test_logits_have_the_size_of_the_images(name: str, size: tuple[int, int]) -> None:
    with torch.no_grad():
        outputs = shared_network(name)(torch.zeros(2, 3, *size))

    assert isinstance(outputs, tuple) and outputs
    assert all(output.shape == (2, 1, *size) and output.isfinite().all() for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_logits_have_the_size_of_the_images_at_the_published_resolution(name: str) -> None:
    side = NETWORKS[name].resolution

    with torch.no_grad():
        outputs = shared_network(name)(torch.zeros(1, 3, side, side))

    assert all(output.shape == (1, 1, side, side) for output in outputs)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [(64, 80), (32, 64)], ids=["no multiple", "too small"])
def test_sides_that_do_not_fit_are_refused(name: str, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"multiples of 32 and at least 64, not {size[1]}x{size[0]}"):
        shared_network(name)(torch.zeros(1, 3, *size))


@pytest.mark.parametrize("name", [name for name in ALL if NETWORKS[name].parameters])
def test_a_network_has_as_many_parameters_as_published(name: str) -> None:
    millions = sum(parameter.numel() for parameter in shared_network(name).parameters()) / 1e6

    # Published figures are rounded to two digits.
    assert millions == pytest.approx(NETWORKS[name].parameters, abs=0.005)


def test_polyp_pvt_predicts_the_sum_of_its_two_outputs() -> None:
    with torch.no_grad():
        first, second, prediction = shared_network("polyp-pvt")(phantom_batch()[0])

    torch.testing.assert_close(prediction, first + second)


def test_a_pretrained_lite_unet_has_the_features_of_the_network_that_was_trained_on_imagenet() -> None:
    images = phantom_batch()[0]
    original: Any = efficientnet_lite(0).eval()
    encoder = build_network("lite-unet", seed=0, pretrained=True).eval().backbone

    with torch.no_grad():
        *_, coarsest = encoder(images)
        expected = original._swish(original._bn0(original._conv_stem(images)))
        for block in original._blocks:
            expected = block(expected)

    assert expected.std() > 0.1
    torch.testing.assert_close(coarsest, expected)


@pytest.mark.parametrize("name", ALL)
def test_the_loss_reaches_every_weight_and_falls(name: str) -> None:
    network = build_network(name, seed=0)

    losses = train(network, phantom_batch(), steps=8, rate=1e-3)

    assert all(parameter.grad is not None for parameter in network.parameters())
    assert np.isfinite(losses).all()
    assert np.mean(losses[-2:]) < 0.97 * np.mean(losses[:2])


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_network_learns_eight_real_pairs_by_heart(name: str) -> None:
    images, masks = kvasir_batch(8, side=64)
    network = build_network(name, seed=0)

    def dice() -> float:
        network.eval()
        with torch.no_grad():
            found = network(images)[-1] > 0
        network.train()
        return float(dice_scores(found[:, 0].numpy(), masks[:, 0].numpy() > 0).mean())

    train(network, (images, masks), steps=400, rate=OVERFIT_RATE, done=lambda: dice() >= 0.95)

    assert dice() >= 0.95


@pytest.mark.parametrize("name", ALL)
def test_masks_without_a_lesion_give_a_finite_loss(name: str) -> None:
    images, masks = phantom_batch()
    network = build_network(name, seed=0)

    loss = network.training_loss(images, torch.zeros_like(masks))
    loss.backward()

    assert loss.shape == () and loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("name", ALL)
def test_a_seed_gives_the_same_weights_under_any_global_random_state(name: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build_network(name, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), state)

    torch.manual_seed(2)
    second, other = build_network(name, seed=5).state_dict(), shared_network(name).state_dict()

    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_the_plain_unet_is_the_published_one_with_batch_normalisation() -> None:
    """Fig. 1 of arXiv 1505.04597: 64 to 1024 channels, two convolutions a level, learnt upsampling."""
    shapes = {name: tuple(value.shape) for name, value in shared_network("plain-unet").named_parameters()}
    widths = [shape[0] for name, shape in shapes.items() if name.startswith("backbone") and len(shape) == 4]
    assert widths == [64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024]
    enlarged = [shape for name, shape in shapes.items() if name.startswith("enlarge") and len(shape) == 4]
    assert enlarged == [(1024, 512, 2, 2), (512, 256, 2, 2), (256, 128, 2, 2), (128, 64, 2, 2)]
    first = [shape[1] for name, shape in shapes.items() if name.startswith("expand") and len(shape) == 4][::2]
    assert first == [1024, 512, 256, 128]  # half of them of the level's map on the way down
    assert sum(np.prod(shape) for shape in shapes.values()) == 31_037_633
    with pytest.raises(NetworkError, match="plain-unet has no backbone that could be pretrained"):
        build_network("plain-unet", seed=0, pretrained=True)


def test_a_file_of_the_whole_network_fills_it(tmp_path: Path) -> None:
    saved = shared_network("unet").state_dict()
    save_file(saved, tmp_path / "unet.safetensors")

    loaded = build_network("unet", seed=7, weights=tmp_path / "unet.safetensors").state_dict()

    assert all(torch.equal(loaded[key], saved[key]) for key in saved)


@pytest.mark.parametrize("name", ALL)
def test_a_file_of_the_backbone_fills_that_and_leaves_the_rest_to_the_seed(name: str, tmp_path: Path) -> None:
    backbone = shared_network(name).backbone.state_dict()
    state = {key: tensor for key, tensor in backbone.items() if not key.endswith("num_batches_tracked")}
    classifier = {"fc.weight": torch.zeros(3, 2), "head.bias": torch.zeros(3)}
    torch.save({"state_dict": {**state, **classifier}}, tmp_path / "backbone.pth")

    loaded = build_network(name, seed=7, weights=tmp_path / "backbone.pth")

    filled = loaded.backbone.state_dict()
    assert all(torch.equal(filled[key], state[key]) for key in state)
    random = build_network(name, seed=7)
    own = {id(parameter) for parameter in loaded.backbone.parameters()}
    rest = [
        (ours, theirs)
        for ours, theirs in zip(loaded.parameters(), random.parameters(), strict=True)
        if id(ours) not in own
    ]
    assert rest and all(torch.equal(ours, theirs) for ours, theirs in rest)


def test_the_authors_names_of_pvt_weights_are_understood(tmp_path: Path) -> None:
    backbone = shared_network("polyp-pvt").backbone.state_dict()
    save_file({_authors_name(key): tensor for key, tensor in backbone.items()}, tmp_path / "pvt.safetensors")

    filled = build_network("polyp-pvt", seed=7, weights=tmp_path / "pvt.safetensors").backbone.state_dict()

    assert all(torch.equal(filled[key], backbone[key]) for key in backbone)


def _authors_name(key: str) -> str:
    """``stages_1.blocks.0.mlp.dwconv.weight`` was ``block2.0.mlp.dwconv.dwconv.weight``."""
    key = key.replace("mlp.dwconv", "mlp.dwconv.dwconv")
    if key.startswith("patch_embed"):
        return key.replace("patch_embed", "patch_embed1")
    stage, _, rest = key.removeprefix("stages_").partition(".")
    number = int(stage) + 1
    if rest.startswith("downsample"):
        return rest.replace("downsample", f"patch_embed{number}")
    return f"{rest.partition('.')[0].replace('blocks', 'block')}{number}.{rest.partition('.')[2]}"


def unfit_states() -> dict[str, tuple[dict[str, Tensor], str]]:
    backbone = shared_network("unet").backbone.state_dict()
    return {
        "missing": ({key: backbone[key] for key in list(backbone)[1:]}, "lacks 'conv1.weight'"),
        "unknown": ({**backbone, "extra": torch.zeros(1)}, "has an unknown 'extra'"),
        "misshapen": ({**backbone, "bn1.bias": torch.zeros(3)}, "has another shape of 'bn1.bias'"),
        "another network": (shared_network("sanet").backbone.state_dict(), "lacks 'conv1.weight'"),
    }


@pytest.mark.parametrize("case", ["missing", "unknown", "misshapen", "another network"])
def test_weights_that_do_not_fit_are_refused(case: str, tmp_path: Path) -> None:
    state, problem = unfit_states()[case]
    path = tmp_path / "weights.safetensors"
    save_file(state, path)

    with pytest.raises(WeightsError, match=f"weights.safetensors: fits neither .* it {problem}"):
        build_network("unet", seed=0, weights=path)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("content", [b"", b"no weights at all"], ids=["empty", "text"])
def test_files_that_hold_no_weights_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(WeightsError, match=f"{name}: no file of weights that can be read"):
        build_network("unet", seed=0, weights=tmp_path / name)


def test_a_missing_weight_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.pth: no such file"):
        build_network("unet", seed=0, weights=tmp_path / "absent.pth")


def test_objects_other_than_tensors_are_not_unpickled(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Path("harmful")}, tmp_path / "harmful.pth")

    with pytest.raises(WeightsError, match=r"harmful\.pth: no file of weights"):
        build_network("unet", seed=0, weights=tmp_path / "harmful.pth")


def test_unknown_names_and_two_sources_of_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="no network 'resnet'; take one of unet"):
        build_network("resnet", seed=0)
    with pytest.raises(NetworkError, match=r"either pretrained weights or the file .*w\.pth"):
        build_network("unet", seed=0, pretrained=True, weights=tmp_path / "w.pth")


@pytest.mark.parametrize("name", DOWNLOADED)
def test_without_a_connection_pretrained_says_what_to_give(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(NetworkError, match=f"backbone of {name} cannot be downloaded .* --weights"):
        build_network(name, seed=0, pretrained=True)
