"""The demo's measurements of its synthetic pairs: mask adherence and nearest real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_core.masks.foreground_rule import ForegroundRule
from siamese_core.pairs.pair_files import Pair

from ..segmentation.judge import SegmenterSettings
from ..statistics.intervals import Estimate, Floats
from .metrics.adherence import adherence_ratio, dice_of_pairs, train_judge
from .metrics.features import efficientnet_lite0, extract
from .metrics.memorisation import find_neighbours

_RESAMPLES = 2000


@dataclass(frozen=True)
class Findings:
    """Judged pairs; Dice compares masks with the predictions of a network trained on the ``train`` pairs.

    ``real_dice`` (R,) is measured on the held-out pairs ``real``, ``dice`` (S,) on the ``synthetic`` pairs:
    first one for the mask of each pair in ``real``, then those of random masks. ``nearest`` (S,) is the index
    in ``train`` of the image nearest to each synthetic one, by EfficientNet-Lite0 features.
    """

    train: Sequence[Pair]
    real: Sequence[Pair]
    synthetic: Sequence[Pair]
    real_dice: Floats
    dice: Floats
    nearest: NDArray[np.intp]

    def figures(self) -> dict[str, Any]:
        """The figures of the summary: over all held-out masks, over random masks, and by prompt."""
        random = self.dice[len(self.real) :]
        prompts = sorted({pair.prompt or "" for pair in self.real})
        return {
            **self._of_held_out(np.full(len(self.real), True)),
            "random_mask_adherence_dice": _rounded(random.mean()) if len(random) else None,
            "by_prompt": {
                prompt: self._of_held_out(np.array([(pair.prompt or "") == prompt for pair in self.real]))
                for prompt in prompts
            },
            "pairs": len(self.synthetic),
        }

    def _of_held_out(self, chosen: NDArray[np.bool_]) -> dict[str, Any]:
        real, synthetic = self.real_dice[chosen], self.dice[: len(self.real)][chosen]
        return {
            "held_out": len(real),
            "mask_adherence_dice": _rounded(synthetic.mean()),
            "real_dice": _rounded(real.mean()),
            "adherence_over_real": _bounds(adherence_ratio(synthetic, real, resamples=_RESAMPLES, seed=0)),
        }


def judge(
    train: Sequence[Pair],
    real: Sequence[Pair],
    synthetic: Sequence[Pair],
    random: Sequence[Pair],
    settings: SegmenterSettings,
    *,
    side: int,
    seed: int,
) -> Findings:
    """Train the judging network on ``train`` and judge the other pairs, at ``side`` x ``side`` pixels.

    ``synthetic`` pairs have the masks and stems of the held-out pairs ``real``; ``random`` pairs have others.
    """
    by_stem = {pair.stem: pair for pair in synthetic}
    generated = [*(by_stem[pair.stem] for pair in real), *random]
    rule = ForegroundRule()
    network = train_judge(train, settings, side=side, rule=rule, seed=seed)
    real_dice, dice = (
        dice_of_pairs(network, pairs, side=side, rule=rule, description=f"judging {name} images")
        for name, pairs in (("real", real), ("synthetic", generated))
    )
    extractor = efficientnet_lite0()
    features = (extract(extractor, [pair.image for pair in pairs]) for pairs in (train, generated))
    return Findings(train, real, generated, real_dice, dice, find_neighbours(*features).index)


def _rounded(figure: float) -> float:
    return round(float(figure), 4)


def _bounds(estimate: Estimate | None) -> list[float | None] | None:
    """Value and bounds of the 95 % interval (None if missing), or None without an estimate."""
    if estimate is None:
        return None
    figures = (estimate.value, estimate.low, estimate.high)
    return [None if figure is None else _rounded(figure) for figure in figures]
