"""A training set of random pairs."""

from __future__ import annotations

import torch

from siamese_core.learning.training_set import TrainingSet
from siamese_core.seeds import generator


def small_set(count: int = 5, side: int = 16) -> TrainingSet:
    """Random pairs; contexts are constants that tell which prompt they belong to, the last one is empty."""
    rng = generator(1)
    return TrainingSet(
        images=torch.randint(256, (count, 3, side, side), generator=rng).to(torch.uint8),
        masks=torch.rand((count, side, side), generator=rng) > 0.5,
        moments=torch.rand((count, 2, 4, side // 8, side // 8), generator=rng),
        contexts=torch.arange(3.0).view(3, 1, 1).repeat(1, 77, 4),
        prompt_index=torch.arange(count) % 2,
    )
