"""Scores of pairs of images: cosine of features (CLIP-I) and LPIPS, to the real image and within a mask."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.functional.image.lpips import _NoTrainLpips
from torchvision.models import AlexNet_Weights
from tqdm import tqdm

from siamese_core.masks.resizing import resize_image
from siamese_core.pairs.image_files import read_image

from ...pretrained.weight_files import WeightsError, read_tensors, weight_file
from ...statistics.intervals import Floats, draws
from .distances import Features

ALEXNET_URL = AlexNet_Weights.IMAGENET1K_V1.url

_PAIRS_OF_A_MASK = 10  # most pairs of samples per mask; five samples make ten pairs


def cosines(first: Features, second: Features) -> Floats:
    """Cosines between corresponding rows of two (N, D) arrays: (N,) in [-1, 1]."""
    x, y = (features.astype(np.float64) for features in (first, second))
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.einsum("nd,nd->n", x, y) / np.maximum(norms, 1e-12)


def load_lpips(weights: Path | None, *, download: bool) -> nn.Module:
    """torchmetrics' LPIPS (Zhang et al. 2018, arXiv 1801.03924; alex) with torchvision's AlexNet ``weights``.

    Without ``weights`` the file in PyTorch's cache is used, or a ``download``. Raises WeightsError.
    """
    path = weight_file(weights, ALEXNET_URL, "--alexnet-weights", download=download)
    network = _NoTrainLpips(net="alex", pnet_rand=True)
    state = read_tensors(path)
    for part in network.net.children():  # slices of AlexNet's features, with the same layer numbers
        for number, layer in part.named_children():
            own = layer.state_dict()
            try:
                layer.load_state_dict({name: state[f"features.{number}.{name}"] for name in own})
            except (KeyError, RuntimeError) as error:
                raise WeightsError(f"{path}: not torchvision's AlexNet (layer features.{number})") from error
    return network.eval()


@torch.inference_mode()
def lpips_distances(
    network: nn.Module,
    pairs: Sequence[tuple[Path, Path]],
    *,
    side: int,
    device: torch.device | None = None,
    batch_size: int = 16,
    label: str = "LPIPS",
) -> Floats:
    """LPIPS of each pair of image files, resized to side x side pixels: (N,), 0 for equal images."""
    device = device or torch.device("cpu")
    network = network.to(device)
    values: list[float] = []
    with tqdm(total=len(pairs), desc=label, unit="pair", mininterval=1.0) as progress:
        for start in range(0, len(pairs), batch_size):
            batch = pairs[start : start + batch_size]
            first, second = (
                torch.stack([_image(path, side) for path in paths]) for paths in zip(*batch, strict=True)
            )
            values += network(first.to(device), second.to(device), normalize=True).flatten().tolist()
            progress.update(len(batch))
    return np.array(values)


def sample_pairs(groups: Sequence[Sequence[int]], seed: int) -> list[list[tuple[int, int]]]:
    """Pairs of samples of each mask: all pairs, or 10 random ones if there are more."""
    random = draws(seed, "diversity-pairs")
    chosen = []
    for group in groups:
        pairs = list(itertools.combinations(group, 2))
        if len(pairs) > _PAIRS_OF_A_MASK:
            pairs = [pairs[i] for i in sorted(random.choice(len(pairs), _PAIRS_OF_A_MASK, replace=False))]
        chosen.append(pairs)
    return chosen


def _image(path: Path, side: int) -> Tensor:
    """The image file as (3, side, side) float in [0, 1]."""
    return torch.from_numpy(resize_image(read_image(path), (side, side))).permute(2, 0, 1).float() / 255
