"""Measuring synthetic sets against one real set; what depends on the real images alone is computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from siamese_core.masks.foreground_rule import ForegroundRule
from siamese_core.pairs.pair_files import Pair

from ..command_line.notes import note
from ..command_line.stage_timing import timed
from ..segmentation.judge import SegmenterSettings
from ..statistics.intervals import Floats, Groups
from .metrics.all_metrics import (
    Matching,
    Results,
    make_judge,
    measure_adherence,
    measure_cosines,
    measure_distances,
    measure_lpips,
    measure_memorisation,
    real_neighbours,
    same_mask,
)
from .metrics.distances import Features
from .metrics.features import PIXELS, Extractor, extract
from .metrics.image_sets import ImageSet, groups_by_mask, match_by_mask
from .metrics.memorisation import Neighbours
from .metrics.projection import FEWEST_PROJECTED, Projection, project, project_together


@dataclass(frozen=True)
class RealSets:
    """The real images, and real pairs to train and to test the judge of mask adherence on (may be empty)."""

    images: ImageSet
    train: Sequence[Pair]
    test: Sequence[Pair]


@dataclass(frozen=True)
class Instruments:
    """Networks and settings of the measurement.

    The first of the feature ``extractors`` is also used for the projection. ``lpips`` is the network, or the
    reason why it is left out. ``resolution`` is the image side for LPIPS in pixels, ``judge_side`` that for
    the judge of mask adherence; ``rule`` is used to read its masks.
    """

    extractors: Sequence[Extractor]
    lpips: nn.Module | str
    judge: SegmenterSettings
    judge_side: int
    rule: ForegroundRule
    resolution: int
    batch_size: int
    seed: int
    device: torch.device


@dataclass
class Measured:
    """The measurements of one synthetic set of S images.

    ``matching`` may be the reason why images cannot be matched by mask. ``groups`` (S,) numbers the images by
    their masks, or is None if none share one. ``neighbours`` are by feature space; ``dice`` (S,) is mask
    adherence, if measured.
    """

    images: ImageSet
    results: Results
    matching: Matching | str
    groups: Groups | None
    neighbours: dict[str, Neighbours] = field(default_factory=dict)
    projections: Sequence[Projection] = ()
    dice: Floats | None = None

    @property
    def matches(self) -> dict[int, int]:
        """Indices of real images by those of the synthetic images with the same mask."""
        return {} if isinstance(self.matching, str) else dict(self.matching.pairs)


def prepared(images: ImageSet, real: ImageSet, results: Results, rule: ForegroundRule) -> Measured:
    """A :class:`Measured` without measurements, in which ``images`` are matched with real ones by mask.

    Masks are read with ``rule``.
    """
    matching = _matching(real, images, rule)
    unmatched = [None] * len(images)
    by_mask = groups_by_mask(images, unmatched) if isinstance(matching, str) else matching.groups
    return Measured(images, results, matching, same_mask(by_mask, len(images)))


def measure_all(
    real: RealSets,
    sets: Mapping[str, Measured],
    tools: Instruments,
    timings: dict[str, float],
    *,
    share_plane: bool,
) -> None:
    """Measure the ``sets`` (by name) in place and add the seconds of each stage to ``timings``.

    With ``share_plane`` one t-SNE is made of all sets, otherwise one of each.
    """
    for extractor in tools.extractors:
        features = _measure_features(real, sets, tools, extractor, timings)
        if extractor is tools.extractors[0] and sum(map(len, features)) >= FEWEST_PROJECTED:
            print("placing the images with t-SNE", flush=True)
            with timed(timings, "PCA and t-SNE"):
                _project(features, sets, tools.seed, share_plane)
    with timed(timings, "LPIPS"):
        for measured in sets.values():
            measure_lpips(
                measured.results,
                tools.lpips,
                real.images,
                measured.images,
                measured.matching,
                side=tools.resolution,
                device=tools.device,
                batch_size=tools.batch_size,
            )
    if real.train and any(measured.images.pairs for measured in sets.values()):
        with timed(timings, "mask adherence"):
            _measure_adherence(real, sets, tools)


def _measure_features(
    real: RealSets,
    sets: Mapping[str, Measured],
    tools: Instruments,
    extractor: Extractor,
    timings: dict[str, float],
) -> list[Features]:
    """Measure everything that depends on one extractor's features; pixels are used for memorisation only.

    Returns the features of the real images and of each set, (N, D) each.
    """
    name = extractor.name
    with timed(timings, f"features [{name}]"):
        of_real, *others = (
            extract(extractor, images.images, device=tools.device, batch_size=tools.batch_size, label=label)
            for label, images in (
                ("real", real.images),
                *((label, one.images) for label, one in sets.items()),
            )
        )
    with timed(timings, f"metrics [{name}]"):
        nearest = real_neighbours(of_real)
        for measured, own in zip(sets.values(), others, strict=True):
            results = measured.results
            groups = measured.groups
            if name != PIXELS:
                measure_distances(results, name, of_real, own, groups)
                measure_cosines(results, name, of_real, own, measured.matching)
            if found := measure_memorisation(results, name, nearest, own, groups):
                measured.neighbours[name] = found
    return [of_real, *others]


def _project(
    features: Sequence[Features], sets: Mapping[str, Measured], seed: int, share_plane: bool
) -> None:
    real, *others = features
    if share_plane:
        panels = project_together(real, dict(zip(sets, others, strict=True)), seed)
        for measured, panel in zip(sets.values(), panels, strict=True):
            measured.projections = [panel]
    else:
        for measured, own in zip(sets.values(), others, strict=True):
            measured.projections = project(real, own, seed)


def _measure_adherence(real: RealSets, sets: Mapping[str, Measured], tools: Instruments) -> None:
    judge = make_judge(
        real.train, real.test, tools.judge, side=tools.judge_side, rule=tools.rule, seed=tools.seed
    )
    for label, measured in sets.items():
        if measured.images.pairs:
            measured.dice = measure_adherence(
                measured.results, judge, measured.images.pairs, measured.groups, f"mask adherence, {label}"
            )


def _matching(real: ImageSet, synthetic: ImageSet, rule: ForegroundRule) -> Matching | str:
    """Images matched by mask, or the reason why that is impossible."""
    for images in (real, synthetic):
        if images.pairs is None:
            return f"{images.root} holds no masks to pair images by"
    matches = match_by_mask(synthetic, real, rule, note)
    pairs = [(own, other) for own, other in enumerate(matches) if other is not None]
    if not pairs:
        return f"no synthetic image is called like a mask of {real.root}"
    return Matching(pairs, groups_by_mask(synthetic, matches))
