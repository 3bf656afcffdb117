"""Batches of pairs for segmentation networks: reading, resizing, augmentation and normalisation."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from siamese_core.masks.foreground_rule import PLAIN_MASKS, ForegroundRule
from siamese_core.masks.resizing import resize_image, resize_mask
from siamese_core.pairs.pair_files import Pair, load_pair
from siamese_core.seeds import epoch_order, generator, stream_seed

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

DRAWS = 8  # uniform numbers in [0, 1) needed to augment one pair

_SCALES = 0.75, 1.25
_TONES = 0.8, 1.2
_GREY = (0.299, 0.587, 0.114)
_READERS = min(4, os.cpu_count() or 1)

Example = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""An image (H, W, 3) uint8 and a bool mask, of the image's size or of the file's own size."""


class PairReader:
    """Reads pairs with images stretched to ``side`` x ``side`` pixels, and caches them up to a memory limit.

    Masks are resized with the image for training, or kept at the file's own size for scoring (``own_masks``).
    Thread-safe.
    """

    def __init__(
        self,
        side: int,
        *,
        own_masks: bool = False,
        rule: ForegroundRule = PLAIN_MASKS,
        cache_bytes: int = 0,
    ) -> None:
        self.side = side
        self._own_masks = own_masks
        self._rule = rule
        self._free = cache_bytes
        self._kept: dict[tuple[Path, Path], Example] = {}
        self._lock = threading.Lock()

    def read(self, pair: Pair) -> Example:
        """The pair's image and mask. Raises PairError when a file cannot be read or their sizes differ."""
        key = (pair.image, pair.mask)
        if (kept := self._kept.get(key)) is not None:
            return kept
        loaded = load_pair(pair, size=None, rule=self._rule)
        size = (self.side, self.side)
        mask = loaded.mask if self._own_masks else resize_mask(loaded.mask, size)
        example = resize_image(loaded.image, size), mask
        # Pairs are read in random order and equally often, so keeping the first that fit is as good as any
        # eviction rule.
        taken = example[0].nbytes + example[1].nbytes
        with self._lock:
            if taken <= self._free and key not in self._kept:
                self._kept[key] = example
                self._free -= taken
        return example


def read_ahead(reader: PairReader, chunks: Iterator[Sequence[Pair]]) -> Iterator[list[Example]]:
    """Read one chunk of pairs after another in several threads, one chunk ahead of the caller."""
    with ThreadPoolExecutor(_READERS) as threads:
        waiting = None
        for chunk in chunks:
            coming = [threads.submit(reader.read, pair) for pair in chunk]
            if waiting is not None:
                yield [future.result() for future in waiting]
            waiting = coming
        if waiting is not None:
            yield [future.result() for future in waiting]


def training_batches(
    reader: PairReader,
    pairs: Sequence[Pair],
    *,
    steps: int,
    batch_size: int,
    seed: int,
    device: torch.device | str,
    order: Iterable[Sequence[int]] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images (B, 3, R, R) and masks (B, 1, R, R) of 0 and 1 for each of ``steps`` steps.

    ``order`` gives the indices in ``pairs`` of each step's batch; without it all pairs are used equally
    often. Order and augmentation of step k depend only on ``seed``, k and the number of pairs.
    """
    if order is None:
        order = (epoch_order(seed, step, batch_size, len(pairs)) for step in range(steps))
    chunks = ([pairs[place] for place in places] for places in order)
    for step, examples in enumerate(read_ahead(reader, chunks)):
        images = image_tensor([image for image, _ in examples]).to(device)
        masks = torch.from_numpy(np.stack([mask for _, mask in examples]))[:, None].to(device).float()
        draws = generator(stream_seed(seed, "segmentation-augmentation", step))
        images, masks = augmented(images, masks, torch.rand(len(images), DRAWS, generator=draws))
        yield normalised(images), masks


def image_tensor(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Images (H, W, 3) uint8 of one size as (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def normalised(images: Tensor) -> Tensor:
    """Normalise (B, 3, H, W) in [0, 1] by ImageNet's mean and deviation, in channels-last format."""
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def augmented(images: Tensor, masks: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Augment square images (B, 3, R, R) in [0, 1] and masks (B, 1, R, R) of 0 and 1 by draws (B, DRAWS).

    Pairs are mirrored or not, rotated by 0 to 3 quarter turns, scaled by 0.75 to 1.25 and shifted within the
    room that scaling leaves (outside is black and background). Brightness, contrast and saturation of the
    images change by factors of 0.8 to 1.2.
    """
    grid = F.affine_grid(
        _placements(uniform[:, :5]), [len(images), 1, *images.shape[2:]], align_corners=False
    )
    grid = grid.to(images.device)
    images = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
    masks = F.grid_sample(masks, grid, mode="nearest", align_corners=False)
    factors = _TONES[0] + (_TONES[1] - _TONES[0]) * uniform[:, 5:].to(images.device)
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    images = (images * brightness).clamp(0, 1)
    grey = (images * images.new_tensor(_GREY).view(3, 1, 1)).sum(1, keepdim=True)
    level = grey.mean((2, 3), keepdim=True)
    images = (level + contrast * (images - level)).clamp(0, 1)
    grey = (images * images.new_tensor(_GREY).view(3, 1, 1)).sum(1, keepdim=True)
    return (grey + saturation * (images - grey)).clamp(0, 1), masks


def _placements(uniform: Tensor) -> Tensor:
    """Affine maps (B, 2, 3) from output to input coordinates in [-1, 1] for uniform draws (B, 5)."""
    mirror = 1 - 2 * (uniform[:, 0] < 0.5).float()
    angle = (uniform[:, 1] * 4).floor() * (torch.pi / 2)
    inverse = 1 / (_SCALES[0] + (_SCALES[1] - _SCALES[0]) * uniform[:, 2])
    shift = (2 * uniform[:, 3:5] - 1) * (1 - inverse).abs()[:, None]
    cos, sin = angle.cos().round(), angle.sin().round()
    rows = torch.stack([torch.stack([cos * mirror, -sin], -1), torch.stack([sin * mirror, cos], -1)], 1)
    return torch.cat([rows * inverse[:, None, None], shift[:, :, None]], 2)
