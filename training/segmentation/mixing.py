"""How real and synthetic pairs share the steps of one training: in every batch, and one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from siamese_core.seeds import epoch_order, shuffled_places
from siamese_core.settings import COUNT_OR_NONE, SHARE, option


@dataclass(frozen=True)
class Mixing:
    """How often each kind of pair is seen; by default every pair equally often, whatever its kind.

    It decides which pairs fill the steps, never how many there are: what is compared gets equal budgets.
    """

    real_share: float | None = option(
        None,
        "share of real pairs in every batch of real and synthetic ones; without it all pairs count alike",
        SHARE,
        added_later=True,
    )
    then_real: int = option(
        0,
        "last steps, of the same number, that see real pairs alone; without --real-share those before see "
        "synthetic pairs alone",
        COUNT_OR_NONE,
        added_later=True,
    )

    @property
    def in_words(self) -> str:
        """As a table says it; empty for the default."""
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
    """The places of each step's pairs, of which ``real`` real ones are followed by ``synthetic`` others.

    Each kind has an order of its own, in which all its pairs are seen before any is seen again. Where the
    share of a batch is no whole number of pairs, batches differ by one, so that it holds over all of them.
    Without both kinds, or a rule about them, the order is that of :func:`~siamese_core.seeds.epoch_order`.
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
    """Real pairs in the first ``steps`` batches, rounded to the nearest whole number."""
    return math.floor(steps * batch_size * share + 0.5)
