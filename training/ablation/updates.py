"""Sizes and directions of the parameter updates made by training (paper, Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from siamese_core.weights.key_layouts import decoder_keys

Update = Mapping[str, Tensor]
"""Difference from the weights before training, a flat float32 tensor for each group of :data:`GROUPS`."""

GROUPS = ("control encoder", "zero convolutions", "decoder")
"""Groups of weights common to all variants; hint blocks may differ in kind and start at random."""

_ZERO_CONVOLUTIONS = ("zero_convs.", "middle_block_out.")


@dataclass(frozen=True)
class Comparison:
    """Sizes and directions of N variants' updates of one group of weights.

    ``sizes`` (N,): Euclidean norms; ``relative`` (N,): sizes divided by the norm of the weights before
    training, None if that is 0. ``cosines`` (N, N): 1 for equal directions, 0 for orthogonal ones, None if
    one of the updates is 0.
    """

    group: str
    sizes: list[float]
    relative: list[float | None]
    cosines: list[list[float | None]]


def starting_weights(unet: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights before training, flat by group, from the base's UNet weights by prefix-free ldm name."""
    decoder = set(decoder_keys(unet))
    return {
        "control encoder": _flat({key: value for key, value in unet.items() if key not in decoder}),
        "decoder": _flat({key: value for key, value in unet.items() if key in decoder}),
    }


def update(control: Mapping[str, Tensor], unet: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Update:
    """The update of a trained model's ``control`` and ``unet`` (by prefix-free ldm name) since ``start``.

    The control network's encoder started as a copy of the UNet's, its zero convolutions at 0 (ControlNet,
    arXiv 2302.05543, section 3.1).
    """
    decoder = set(decoder_keys(unet))
    encoder = {key: control[key] for key in unet if key not in decoder}
    return {
        "control encoder": _flat(encoder) - start["control encoder"],
        "zero convolutions": _flat(
            {key: value for key, value in control.items() if key.startswith(_ZERO_CONVOLUTIONS)}
        ),
        "decoder": _flat({key: unet[key] for key in unet if key in decoder}) - start["decoder"],
    }


def compare_updates(updates: Mapping[str, Update], start: Mapping[str, Tensor]) -> list[Comparison]:
    """Sizes and pairwise cosines of the ``updates`` of several variants, by group."""
    found = []
    for group in GROUPS:
        vectors = [one[group].double() for one in updates.values()]
        sizes = [float(vector.norm()) for vector in vectors]
        before = float(start[group].double().norm()) if group in start else 0.0
        found.append(
            Comparison(
                group,
                sizes,
                [size / before if before else None for size in sizes],
                [
                    [
                        float(first @ second) / (size * other) if size and other else None
                        for second, other in zip(vectors, sizes, strict=True)
                    ]
                    for first, size in zip(vectors, sizes, strict=True)
                ],
            )
        )
    return found


def _flat(weights: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([weights[key].float().flatten() for key in sorted(weights)])
