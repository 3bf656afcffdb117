"""Mask adherence: how well a segmenter trained on real pairs finds the given mask in a synthetic image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn
from tqdm import tqdm

from siamese_core.masks.foreground_rule import ForegroundRule
from siamese_core.pairs.pair_files import LoadedPair, Pair, load_pair

from ...segmentation.judge import SegmenterSettings, predict_masks, train_segmenter
from ...segmentation.scores import dice_scores
from ...statistics.intervals import Estimate, Floats, Groups, bounds, draws, mean, resampled

_BATCH = 16


def train_judge(
    pairs: Sequence[Pair],
    settings: SegmenterSettings,
    *,
    side: int,
    rule: ForegroundRule,
    seed: int,
) -> nn.Module:
    """Train the segmentation network on real ``pairs``, all held in memory at side x side pixels."""
    loaded = [_loaded(pair, side, rule) for pair in pairs]
    images, masks = (np.stack([getattr(pair, half) for pair in loaded]) for half in ("image", "mask"))
    return train_segmenter(images, masks, settings, seed=seed)


def dice_of_pairs(
    judge: nn.Module, pairs: Sequence[Pair], *, side: int, rule: ForegroundRule, description: str
) -> Floats:
    """Dice of ``judge``'s prediction for each pair's image against its mask: (N,) in [0, 1]."""
    scores: list[Floats] = []
    with tqdm(total=len(pairs), desc=description, unit="image", mininterval=1.0) as progress:
        for start in range(0, len(pairs), _BATCH):
            loaded = [_loaded(pair, side, rule) for pair in pairs[start : start + _BATCH]]
            found = predict_masks(judge, np.stack([pair.image for pair in loaded]))
            scores.append(dice_scores(found, np.stack([pair.mask for pair in loaded])))
            progress.update(len(loaded))
    return np.concatenate(scores)


def adherence_ratio(
    synthetic: Floats, real: Floats, *, resamples: int, seed: int, groups: Groups | None = None
) -> Estimate | None:
    """Mean Dice on synthetic images divided by that on held-out real ones; None when the latter is 0.

    The bootstrap resamples ``groups`` of the synthetic images, if given. There is no interval when the mean
    on real images is 0 in too many resamples.
    """
    if not real.any():
        return None
    random = draws(seed, "adherence-ratio")
    means = [
        resampled(scores, mean, resamples, random, own) for scores, own in ((synthetic, groups), (real, None))
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = bounds(means[0] / means[1])
    value, sizes = float(synthetic.mean() / real.mean()), (len(real), len(synthetic))
    if not np.isfinite([low, high]).all():
        note = "no interval: the segmenter finds nothing in too many of the held-out real images"
        return Estimate(value, None, None, *sizes, note)
    return Estimate(value, low, high, *sizes)


def _loaded(pair: Pair, side: int, rule: ForegroundRule) -> LoadedPair:
    return load_pair(pair, size=(side, side), rule=rule)
