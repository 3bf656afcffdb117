"""All metrics of a synthetic set against a real one, each stored by name or left out with a reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from siamese_core.masks.foreground_rule import ForegroundRule
from siamese_core.pairs.pair_files import Pair

from ...segmentation.judge import SegmenterSettings
from ...statistics.intervals import Estimate, Floats, Groups, mean, statistic_estimate
from .adherence import adherence_ratio, dice_of_pairs, train_judge
from .distances import Features, TooFewImages, cmmd, fid, kid, precision_recall
from .features import CLIP
from .image_sets import ImageSet
from .memorisation import Neighbours, RealNeighbours, close_share, distance_ratio
from .paired import cosines, lpips_distances, sample_pairs

SEGMENTER = "small-unet"


@dataclass
class Results:
    """Estimates by name, such as ``kid[inception-v3]``, and the reasons why others are left out."""

    resamples: int
    seed: int
    metrics: dict[str, Estimate] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, compute: Callable[[], Estimate]) -> None:
        """Store the result of ``compute`` under ``name``, or the message of TooFewImages as the reason."""
        try:
            self.metrics[name] = compute()
        except TooFewImages as error:
            self.left_out[name] = str(error)

    def add_mean(
        self,
        name: str,
        values: Floats,
        sizes: tuple[int, int],
        note: str = "",
        groups: Groups | None = None,
    ) -> None:
        """Store the mean of the (N,) ``values``; the bootstrap resamples ``groups`` of them, if given."""
        how = {"resamples": self.resamples, "seed": self.seed}
        self.metrics[name] = statistic_estimate(
            values, mean, sizes=sizes, **how, stream=name, note=note, groups=groups
        )


@dataclass(frozen=True)
class Matching:
    """Images matched by mask: (synthetic, real) index pairs, and groups of synthetic images of one mask."""

    pairs: Sequence[tuple[int, int]]
    groups: Sequence[Sequence[int]]


def same_mask(by_mask: Sequence[Sequence[int]], images: int) -> Groups | None:
    """The group number of each synthetic image, (``images``,), from the groups ``by_mask``; None without any.

    Images without a known mask have a group of their own. Images of one mask resemble each other, so an
    interval that treats them as independent is too narrow.
    """
    if not by_mask:
        return None
    groups = np.arange(images)
    for group in by_mask:
        groups[list(group)] = group[0]
    return groups


def measure_distances(
    results: Results, name: str, real: Features, synthetic: Features, groups: Groups | None
) -> None:
    """FID, KID, CMMD, precision and recall on the features (N, D) of extractor ``name``.

    Only FID's bootstrap resamples ``groups`` of synthetic images; the others get a note if there are groups.
    """
    how: dict[str, int] = {"resamples": results.resamples, "seed": results.seed}
    results.add(f"fid[{name}]", partial(fid, real, synthetic, **how, groups=groups))
    for metric, function in (("kid", kid), ("cmmd", cmmd)):
        results.add(f"{metric}[{name}]", partial(function, real, synthetic, **how))
    try:
        precision, recall = precision_recall(real, synthetic, **how)
    except TooFewImages as error:
        results.left_out |= {f"precision[{name}]": str(error), f"recall[{name}]": str(error)}
    else:
        results.metrics |= {f"precision[{name}]": precision, f"recall[{name}]": recall}
    if groups is None:
        return
    for metric in ("kid", "cmmd", "precision", "recall"):
        if found := results.metrics.get(f"{metric}[{name}]"):
            note = "; ".join(filter(None, (found.note, _TAKEN_APART)))
            results.metrics[f"{metric}[{name}]"] = replace(found, note=note)


def real_neighbours(real: Features) -> RealNeighbours | str:
    """The neighbour search for memorisation, or the reason why there are too few ``real`` features (R, D)."""
    try:
        return RealNeighbours(real)
    except TooFewImages as error:
        return str(error)


def measure_memorisation(
    results: Results, name: str, real: RealNeighbours | str, synthetic: Features, groups: Groups | None
) -> Neighbours | None:
    """Store the share of close images and the distance ratio; return the neighbours, or None."""
    if isinstance(real, str):
        results.left_out |= {f"close-share[{name}]": real, f"distance-ratio[{name}]": real}
        return None
    neighbours = real.of(synthetic)
    for metric, function in (("close-share", close_share), ("distance-ratio", distance_ratio)):
        key = f"{metric}[{name}]"
        how = {"resamples": results.resamples, "seed": results.seed}
        results.add(key, partial(function, neighbours, **how, stream=key, groups=groups))
    return neighbours


def measure_cosines(
    results: Results, name: str, real: Features, synthetic: Features, matching: Matching | str
) -> None:
    """Mean cosine of features between each synthetic image and its real one (CLIP-I); diversity per mask."""
    paired = f"{'clip-i' if name.startswith(CLIP) else 'cosine'}[{name}]"
    diversity = f"diversity-cosine[{name}]"
    if isinstance(matching, str):
        results.left_out |= {paired: matching, diversity: matching}
        return
    own, other = np.array(matching.pairs).T
    sizes = len(set(other)), len(own)
    results.add_mean(paired, cosines(synthetic[own], real[other]), sizes, groups=_of_mask(matching))
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
    """LPIPS of each synthetic image and the real one of its mask, and diversity per mask."""
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
    results.add_mean(paired, distances(files, "LPIPS"), sizes, groups=_of_mask(matching))
    if not matching.groups:
        results.left_out[diversity] = _NO_SAMPLES
        return
    chosen = sample_pairs(matching.groups, results.seed)
    flat = [(synthetic.images[a], synthetic.images[b]) for pairs in chosen for a, b in pairs]
    ends = np.cumsum([len(pairs) for pairs in chosen])[:-1]
    groups = np.split(distances(flat, "LPIPS within masks"), ends)
    _add_diversity(results, diversity, [group.mean() for group in groups], matching)


@dataclass(frozen=True)
class Judge:
    """A segmenter trained on ``trained_on`` real pairs, and its Dice on held-out ones (None without any)."""

    network: nn.Module
    trained_on: int
    side: int
    rule: ForegroundRule
    on_real: Floats | None

    def dice(self, pairs: Sequence[Pair], description: str) -> Floats:
        """Dice of its prediction for each pair's image against the mask: (N,)."""
        return dice_of_pairs(self.network, pairs, side=self.side, rule=self.rule, description=description)


def make_judge(
    train: Sequence[Pair],
    test: Sequence[Pair],
    settings: SegmenterSettings,
    *,
    side: int,
    rule: ForegroundRule,
    seed: int,
) -> Judge:
    """Train a segmenter on the real pairs ``train`` and score it on the held-out pairs ``test``, if any."""
    network = train_judge(train, settings, side=side, rule=rule, seed=seed)
    judge = Judge(network, len(train), side, rule, None)
    return replace(judge, on_real=judge.dice(test, "held-out real pairs")) if test else judge


def measure_adherence(
    results: Results,
    judge: Judge,
    synthetic: Sequence[Pair],
    groups: Groups | None,
    description: str,
) -> Floats:
    """Store the Dice of ``judge`` on synthetic and held-out real pairs, and the ratio of both.

    ``groups`` of synthetic pairs share a mask. Returns the Dice of each synthetic pair, (N,). Without
    held-out pairs their metrics are left out.
    """
    dice = judge.dice(synthetic, description)
    note = f"trained on {judge.trained_on} real pairs"
    results.add_mean(f"adherence[{SEGMENTER}]", dice, (0, len(dice)), note, groups)
    names = f"real-dice[{SEGMENTER}]", f"adherence-ratio[{SEGMENTER}]"
    on_real = judge.on_real
    if on_real is None:
        results.left_out |= dict.fromkeys(names, "no held-out real pairs were given (--real-test)")
        return dice
    results.add_mean(names[0], on_real, (len(on_real), 0))
    how = {"resamples": results.resamples, "seed": results.seed}
    ratio = adherence_ratio(dice, on_real, **how, groups=groups)
    if ratio is None:
        results.left_out[names[1]] = "the segmenter finds nothing in held-out real images; train it longer"
    else:
        results.metrics[names[1]] = ratio
    return dice


def _of_mask(matching: Matching) -> Groups | None:
    """The group number (by mask) of each matched pair; None if no two share a mask."""
    return np.array([real for _, real in matching.pairs]) if matching.groups else None


def _add_diversity(results: Results, name: str, values: Sequence[float], matching: Matching) -> None:
    samples = sum(map(len, matching.groups))
    note = f"mean over {len(values)} masks with several samples"
    results.add_mean(name, np.array(values), (0, samples), note)


_TAKEN_APART = "interval too narrow: it takes the images of one mask for independent"
_NO_SAMPLES = "no mask has several synthetic images (training.generate --per-mask 2 or more)"
