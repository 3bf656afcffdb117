"""Training a segmentation network, predicting with it, saving and loading it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from siamese_core.errors import UserError
from siamese_core.files import write_bytes_atomic
from siamese_core.json_lines import parse_json
from siamese_core.learning.learning_rate import cosine_rate
from siamese_core.pairs.pair_files import Pair
from siamese_core.seeds import stream_seed

from .batches import Example, PairReader, image_tensor, normalised, read_ahead, training_batches
from .networks.interface import SMALLEST_SIDE, STRIDE, SegmentationNetwork
from .networks.registry import NETWORKS, build_network

_WARMUP_SHARE = 0.05
_LARGEST_GRADIENT = 0.5  # element-wise clipping, as in the training of the paper's polyp networks
_LOSS_EVERY = 20  # steps between reads of the loss, each of which synchronises with the device
_PREDICTED_AT_ONCE = 8

_KIND = "segmenter"
_LARGEST_SIDE = 16384
_SHOWN = 300  # most characters of a reason quoted in a message


class FitError(UserError):
    """A network cannot be trained or loaded as asked; the message names the setting or file."""


@dataclass(frozen=True)
class FitSettings:
    """Training settings, equal for all compared variants.

    ``resolution`` is the image side in pixels; ``backbone_rate`` is the backbone's learning rate as a share
    of ``learning_rate``.
    """

    steps: int
    batch_size: int
    resolution: int
    optimiser: str
    learning_rate: float
    backbone_rate: float
    weight_decay: float


@dataclass(frozen=True)
class Segmenter:
    """A trained network in evaluation mode, and the side in pixels that images are stretched to."""

    network: SegmentationNetwork
    name: str
    resolution: int


def fit_settings(
    network: str,
    baseline_pairs: int,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    resolution: int | None = None,
    learning_rate: float | None = None,
) -> FitSettings:
    """The published settings of ``network``, overridden by the arguments.

    ``steps`` default to the network's epochs over ``baseline_pairs`` pairs, for all variants that are
    compared with the baseline. Raises FitError for a value that does not fit the network.
    """
    default = NETWORKS[network]
    settings = FitSettings(
        steps=0 if steps is None else steps,
        batch_size=default.batch_size if batch_size is None else batch_size,
        resolution=default.resolution if resolution is None else resolution,
        optimiser=default.optimiser,
        learning_rate=default.learning_rate if learning_rate is None else learning_rate,
        backbone_rate=default.backbone_rate,
        weight_decay=default.weight_decay,
    )
    if settings.batch_size < 2:  # batch normalisation may otherwise see a single value, without variance
        raise FitError(f"--batch-size must be at least 2, not {settings.batch_size}")
    if settings.resolution < SMALLEST_SIDE or settings.resolution % STRIDE:
        raise FitError(
            f"--resolution must be a multiple of {STRIDE} from {SMALLEST_SIDE} on, not {settings.resolution}"
        )
    if settings.learning_rate <= 0:
        raise FitError(f"--learning-rate must be above 0, not {settings.learning_rate:g}")
    if steps is None:
        return replace(settings, steps=default.epochs * -(-baseline_pairs // settings.batch_size))
    if steps < 1:
        raise FitError(f"--steps must be at least 1, not {steps}")
    return settings


def fit(
    network: SegmentationNetwork,
    reader: PairReader,
    pairs: Sequence[Pair],
    settings: FitSettings,
    *,
    seed: int,
    device: torch.device,
    label: str = "training",
    order: Iterable[Sequence[int]] | None = None,
) -> float:
    """Train ``network`` in place on ``pairs`` and leave it in evaluation mode; returns the last loss.

    The learning rate rises linearly over a twentieth of the steps, then follows a half cosine to 0; gradients
    are clipped to [-0.5, 0.5] element-wise. All draws come from ``seed``; global random states are restored.
    ``order`` gives the indices in ``pairs`` of each step's batch; without it all pairs are used equally
    often. Raises FitError when the loss becomes non-finite, and PairError for a pair that cannot be read.
    """
    network.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = _optimiser(network, settings)
    warmup = max(1, round(settings.steps * _WARMUP_SHARE))
    batches = training_batches(
        reader,
        pairs,
        steps=settings.steps,
        batch_size=settings.batch_size,
        seed=seed,
        device=device,
        order=order,
    )
    shares = [group["lr"] / settings.learning_rate for group in optimiser.param_groups]
    last = math.nan
    with (
        _own_random_state(stream_seed(seed, "segmentation-network"), device),
        tqdm(batches, total=settings.steps, desc=label, unit="step", mininterval=1.0) as progress,
    ):
        for step, (images, masks) in enumerate(progress):
            rate = cosine_rate(settings.learning_rate, step, settings.steps, warmup)
            for group, share in zip(optimiser.param_groups, shares, strict=True):
                group["lr"] = rate * share
            loss = network.training_loss(images, masks)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_value_(network.parameters(), _LARGEST_GRADIENT)
            optimiser.step()
            if step % _LOSS_EVERY == 0 or step + 1 == settings.steps:
                last = float(loss.detach())
                progress.set_postfix(loss=f"{last:.3f}", refresh=False)
                if not math.isfinite(last):
                    raise FitError(f"{label}: the loss is {last} at step {step}; lower --learning-rate")
    network.eval()
    return last


def predictions(
    segmenter: Segmenter, reader: PairReader, pairs: Sequence[Pair], device: torch.device
) -> Iterator[tuple[Example, NDArray[np.bool_]]]:
    """Yield each pair as read by ``reader``, and the predicted mask (H, W) bool at the size of its mask.

    The logits of the last output are resized bilinearly to that size; foreground is where the probability
    exceeds 0.5.
    """
    chunks = (pairs[start : start + _PREDICTED_AT_ONCE] for start in range(0, len(pairs), _PREDICTED_AT_ONCE))
    for examples in read_ahead(reader, chunks):
        logits = _logits(segmenter.network, examples, device)
        for example, one in zip(examples, logits, strict=True):
            size = example[1].shape
            resized = F.interpolate(one[None], size=size, mode="bilinear", align_corners=False)
            yield example, (resized[0, 0] > 0).cpu().numpy()


@torch.no_grad()
def _logits(network: nn.Module, examples: Sequence[Example], device: torch.device) -> Tensor:
    images = normalised(image_tensor([image for image, _ in examples]).to(device))
    return network(images)[-1].float()


def save_segmenter(path: Path, segmenter: Segmenter) -> None:
    """Write the network to ``path`` (.safetensors) with its name and resolution."""
    about = {"siamese.kind": _KIND, "siamese.segmenter": json.dumps(_about(segmenter))}
    weights = {name: tensor.cpu().contiguous() for name, tensor in segmenter.network.state_dict().items()}
    write_bytes_atomic(path, save(weights, metadata=about))


def load_segmenter(path: Path) -> Segmenter:
    """Read a file written by :func:`save_segmenter`. Raises FitError for a damaged or other file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("siamese.kind") != _KIND:
                raise FitError(
                    f"{path}: holds no segmentation network; give a file of training.segment --save-networks"
                )
            about = parse_json(metadata["siamese.segmenter"])
            name, resolution = about["network"], about["resolution"]
            if name not in NETWORKS or type(resolution) is not int or not 1 <= resolution <= _LARGEST_SIDE:
                raise ValueError(f"network {name!r} for {resolution!r} px")
            network = build_network(name, seed=0)
            network.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    except FitError:
        raise
    except (OSError, SafetensorError, LookupError, TypeError, RuntimeError, ValueError) as error:
        reason = str(error)[:_SHOWN]
        raise FitError(f"{path}: cannot be read as a segmentation network ({reason})") from error
    network.to(memory_format=torch.channels_last).eval()
    return Segmenter(network, name, resolution)


def _about(segmenter: Segmenter) -> dict[str, object]:
    return {"network": segmenter.name, "resolution": segmenter.resolution}


def _optimiser(network: SegmentationNetwork, settings: FitSettings) -> torch.optim.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    in_backbone = set(network.backbone.parameters())
    groups = [
        {"params": list(network.backbone.parameters()), "lr": rate * settings.backbone_rate},
        {"params": [one for one in network.parameters() if one not in in_backbone], "lr": rate},
    ]
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=0.9, weight_decay=decay, nesterov=True)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimiser]
    return kind(groups, lr=rate, weight_decay=decay)


@contextmanager
def _own_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators, from which dropout draws, for the block, and restore them afterwards."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed all other devices, too
        if cuda:
            torch.cuda.manual_seed(seed)
        yield
