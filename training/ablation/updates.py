"""How far, and in which direction, training moved the weights (paper, Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from siamese_core.weights.key_layouts import decoder_keys

Update = Mapping[str, Tensor]
"""Difference to the weights before training, flat and float32, for each group of :data:`GROUPS`."""

GROUPS = ("control encoder", "zero convolutions", "decoder")
"""The weights that every variant has: not the hint block, whose kinds differ and whose start is random."""

_ZERO_CONVOLUTIONS = ("zero_convs.", "middle_block_out.")


@dataclass(frozen=True)
class Comparison:
    """Sizes and directions of N variants' updates of one group of weights.

    ``sizes`` (N,): Euclidean norms; ``relative`` (N,): over the norm of the weights before training, None
    where those are 0. ``cosines`` (N, N): 1 for the same direction, 0 for unrelated ones; None beside an
    update of nothing.
    """

    group: str
    sizes: list[float]
    relative: list[float | None]
    cosines: list[list[float | None]]


def starting_weights(unet: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights before training by group, flat, from the base's UNet by prefix-free ldm name."""
    decoder = set(decoder_keys(unet))
    return {
        "control encoder": _flat({key: value for key, value in unet.items() if key not in decoder}),
        "decoder": _flat({key: value for key, value in unet.items() if key in decoder}),
    }


def update(control: Mapping[str, Tensor], unet: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Update:
    """The update of a trained model's ``control`` and ``unet`` (by prefix-free ldm name) since ``start``.

    The control network's encoder began as the UNet's, its zero convolutions at 0 (ControlNet, section 3.1).
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
    """Sizes and pairwise directions of the ``updates`` of several variants, group by group."""
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
