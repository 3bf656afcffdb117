"""How real and synthetic pairs share the steps of a training run: within batches, and one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from siamese_core.seeds import epoch_order, shuffled_places
from siamese_core.settings import COUNT_OR_NONE, SHARE, option


@dataclass(frozen=True)
class Mixing:
    """How often real and synthetic pairs are used; by default every pair is used equally often.

    Mixing determines which pairs fill the steps, never the number of steps, so that budgets stay equal.
    """

    real_share: float | None = option(
        None,
        "share of real pairs in every batch of real and synthetic ones; default: all pairs are drawn "
        "equally often",
        SHARE,
        added_later=True,
    )
    then_real: int = option(
        0,
        "number of final steps, out of the total, that use only real pairs; without --real-share, the "
        "earlier steps use only synthetic pairs",
        COUNT_OR_NONE,
        added_later=True,
    )

    @property
    def in_words(self) -> str:
        """A phrase for tables; empty for the default."""
        parts = []
        if self.real_share is not None:
            parts.append(f"{self.real_share:.0%} real in a batch")
        elif self.then_real:
            parts.append("synthetic first")
        if self.then_real:
            parts.append(f"last {self.then_real} steps real")
        return ", ".join(parts)


def mixed_order(
    mixing: Mixing, real: int, synthetic: int, *, steps: int, batch_size: int, seed: int
) -> Iterator[list[int]]:
    """Indices of each step's pairs in a list of ``real`` real pairs followed by ``synthetic`` others.

    Each kind has its own order, in which all its pairs are used before any is repeated. If the real share of
    a batch is not a whole number of pairs, batches differ by one, so that it holds on average. Without both
    kinds or with the default mixing, the order is that of :func:`~siamese_core.seeds.epoch_order`.
    """
    if mixing == Mixing() or not real or not synthetic:
        yield from (epoch_order(seed, step, batch_size, real + synthetic) for step in range(steps))
        return
    share = mixing.real_share or 0.0
    real_seen = 0
    for step in range(steps):
        if step < steps - mixing.then_real:
            of_real = _real_up_to(step + 1, batch_size, share) - _real_up_to(step, batch_size, share)
        else:
            of_real = batch_size
        synthetic_seen = step * batch_size - real_seen
        places = shuffled_places(seed, real_seen, of_real, real, "order-real")
        others = shuffled_places(seed, synthetic_seen, batch_size - of_real, synthetic, "order-synthetic")
        yield places + [real + place for place in others]
        real_seen += of_real


def _real_up_to(steps: int, batch_size: int, share: float) -> int:
    """The number of real pairs in the first ``steps`` batches, rounded to the nearest integer."""
    return math.floor(steps * batch_size * share + 0.5)
