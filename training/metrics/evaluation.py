"""All the metrics of a synthetic set against a real one, each under its name or left out with a reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from siamese_core.pairs import Pair

from ..segmenter import SegmenterSettings
from .adherence import adherence_ratio, dice_of_pairs, train_judge
from .distances import Features, TooFewImages, cmmd, fid, kid, precision_recall
from .features import CLIP
from .image_sets import ImageSet
from .intervals import Estimate, Floats, mean, statistic_estimate
from .memorisation import Neighbours, close_share, distance_ratio, find_neighbours
from .paired import cosines, lpips_distances, sample_pairs

SEGMENTER = "small-unet"


@dataclass
class Results:
    """Estimates by name, the extractor in brackets, and why others are missing."""

    resamples: int
    seed: int
    metrics: dict[str, Estimate] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, compute: Callable[[], Estimate]) -> None:
        """Enter what ``compute`` gives under ``name``, or the reason of its TooFewImages."""
        try:
            self.metrics[name] = compute()
        except TooFewImages as error:
            self.left_out[name] = str(error)

    def add_mean(self, name: str, values: Floats, sizes: tuple[int, int], note: str = "") -> None:
        """Enter the mean of the (N,) ``values``."""
        self.metrics[name] = statistic_estimate(
            values, mean, sizes=sizes, resamples=self.resamples, seed=self.seed, stream=name, note=note
        )


@dataclass(frozen=True)
class Matching:
    """Which synthetic image belongs to which real one, by mask: (synthetic, real) indices; and the groups of
    synthetic images that share a mask."""

    pairs: Sequence[tuple[int, int]]
    groups: Sequence[Sequence[int]]


def measure_distances(results: Results, name: str, real: Features, synthetic: Features) -> None:
    """FID, KID, CMMD, precision and recall on the features of extractor ``name``."""
    how = {"resamples": results.resamples, "seed": results.seed}
    for metric, function in (("fid", fid), ("kid", kid), ("cmmd", cmmd)):
        results.add(f"{metric}[{name}]", partial(function, real, synthetic, **how))
    try:
        precision, recall = precision_recall(real, synthetic, **how)
    except TooFewImages as error:
        results.left_out |= {f"precision[{name}]": str(error), f"recall[{name}]": str(error)}
    else:
        results.metrics |= {f"precision[{name}]": precision, f"recall[{name}]": recall}


def measure_memorisation(
    results: Results, name: str, real: Features, synthetic: Features
) -> Neighbours | None:
    """Share of suspiciously close images and ratio of distances; the neighbours, or None for too few."""
    try:
        neighbours = find_neighbours(real, synthetic)
    except TooFewImages as error:
        results.left_out |= {f"close-share[{name}]": str(error), f"distance-ratio[{name}]": str(error)}
        return None
    for metric, function in (("close-share", close_share), ("distance-ratio", distance_ratio)):
        key = f"{metric}[{name}]"
        how = {"resamples": results.resamples, "seed": results.seed}
        results.add(key, partial(function, neighbours, **how, stream=key))
    return neighbours


def measure_cosines(
    results: Results, name: str, real: Features, synthetic: Features, matching: Matching | str
) -> None:
    """Mean cosine of each synthetic image's features and its real one's (CLIP-I), and within a mask."""
    paired = f"{'clip-i' if name.startswith(CLIP) else 'cosine'}[{name}]"
    diversity = f"diversity-cosine[{name}]"
    if isinstance(matching, str):
        results.left_out |= {paired: matching, diversity: matching}
        return
    own, other = np.array(matching.pairs).T
    results.add_mean(paired, cosines(synthetic[own], real[other]), (len(set(other)), len(own)))
    if not matching.groups:
        results.left_out[diversity] = _NO_SAMPLES
        return
    chosen = sample_pairs(matching.groups, results.seed)
    values = []
    for pairs in chosen:
        first, second = (synthetic[list(side)] for side in zip(*pairs, strict=True))
        values.append(float(1 - cosines(first, second).mean()))
    _add_diversity(results, diversity, values, matching)


def measure_lpips(
    results: Results,
    network: nn.Module | str,
    real: ImageSet,
    synthetic: ImageSet,
    matching: Matching | str,
    *,
    side: int,
    device: torch.device,
    batch_size: int,
) -> None:
    """LPIPS of each synthetic image and the real one of its mask, and among the samples of a mask."""
    paired, diversity = "lpips[alex]", "diversity-lpips[alex]"
    for reason in (matching, network):
        if isinstance(reason, str):
            results.left_out |= {paired: reason, diversity: reason}
            return
    assert isinstance(matching, Matching) and isinstance(network, nn.Module)

    def distances(pairs: Sequence[tuple[Path, Path]], label: str) -> Floats:
        return lpips_distances(network, pairs, side=side, device=device, batch_size=batch_size, label=label)

    files = [(synthetic.images[own], real.images[other]) for own, other in matching.pairs]
    sizes = len({other for _, other in matching.pairs}), len(files)
    results.add_mean(paired, distances(files, "LPIPS"), sizes)
    if not matching.groups:
        results.left_out[diversity] = _NO_SAMPLES
        return
    chosen = sample_pairs(matching.groups, results.seed)
    flat = [(synthetic.images[a], synthetic.images[b]) for pairs in chosen for a, b in pairs]
    ends = np.cumsum([len(pairs) for pairs in chosen])[:-1]
    groups = np.split(distances(flat, "LPIPS within masks"), ends)
    _add_diversity(results, diversity, [group.mean() for group in groups], matching)


def measure_adherence(
    results: Results,
    train: Sequence[Pair],
    synthetic: Sequence[Pair],
    test: Sequence[Pair],
    settings: SegmenterSettings,
    *,
    side: int,
    threshold: int,
    label: int | None,
) -> Floats:
    """Dice of a segmenter trained on the real pairs ``train``: on synthetic and held-out real images.

    Returns the Dice of each synthetic pair. The metrics of held-out images are left out when ``test`` is
    empty.
    """
    judge = train_judge(train, settings, side=side, threshold=threshold, label=label, seed=results.seed)
    scores = partial(dice_of_pairs, judge, side=side, threshold=threshold, label=label)
    dice = scores(synthetic, description="mask adherence")
    note = f"trained on {len(train)} real pairs"
    results.add_mean(f"adherence[{SEGMENTER}]", dice, (0, len(dice)), note)
    names = f"real-dice[{SEGMENTER}]", f"adherence-ratio[{SEGMENTER}]"
    if not test:
        results.left_out |= dict.fromkeys(names, "no held-out real pairs were given (--real-test)")
        return dice
    on_real = scores(test, description="held-out real pairs")
    results.add_mean(names[0], on_real, (len(on_real), 0))
    ratio = adherence_ratio(dice, on_real, resamples=results.resamples, seed=results.seed)
    if ratio is None:
        results.left_out[names[1]] = "the segmenter finds nothing in held-out real images; train it longer"
    else:
        results.metrics[names[1]] = ratio
    return dice


def _add_diversity(results: Results, name: str, values: Sequence[float], matching: Matching) -> None:
    samples = sum(map(len, matching.groups))
    note = f"mean over {len(values)} masks with several samples"
    results.add_mean(name, np.array(values), (0, samples), note)


_NO_SAMPLES = "no mask has several synthetic images (training.generate --per-mask 2 or more)"
