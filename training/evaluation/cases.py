"""Images shown in an evaluation's report: samples, best and worst cases, and those closest to real images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from siamese_core.contact_sheet import outlined
from siamese_core.masks.foreground_rule import ForegroundRule
from siamese_core.masks.resizing import mask_to_uint8, resize_image, resize_mask
from siamese_core.pairs.image_files import read_image
from siamese_core.pairs.written_masks import read_mask_by_origin

from ..statistics.intervals import Floats
from .metrics.image_sets import ImageSet
from .metrics.memorisation import Neighbours
from .report import Gallery, Strip

_SIDE = 160
_SAMPLES = 8
_CASES = 4  # at either end
_CLOSEST = 8


class CasePictures:
    """Reads images and masks (with ``rule``) and fits them into square tiles."""

    def __init__(self, real: ImageSet, synthetic: ImageSet, rule: ForegroundRule) -> None:
        self._real, self._synthetic = real, synthetic
        self._rule = rule

    def real(self, index: int) -> NDArray[np.uint8]:
        """The real image ``index``, fitted into a tile."""
        return resize_image(read_image(self._real.images[index]), (_SIDE, _SIDE), "pad")

    def synthetic(self, index: int) -> NDArray[np.uint8]:
        """The synthetic image ``index``, fitted into a tile."""
        return resize_image(read_image(self._synthetic.images[index]), (_SIDE, _SIDE), "pad")

    def mask(self, index: int) -> NDArray[np.bool_] | None:
        """The mask of the synthetic image ``index``, or None without masks."""
        if self._synthetic.pairs is None:
            return None
        reading = read_mask_by_origin(self._synthetic.pairs[index].mask, self._rule)
        return resize_mask(reading.mask, (_SIDE, _SIDE), "pad")

    def of(self, index: int) -> list[tuple[str, NDArray[np.uint8]]]:
        """Labelled tiles: mask, synthetic image, and image with outline, or the image alone without masks."""
        image, mask = self.synthetic(index), self.mask(index)
        if mask is None:
            return [("synthetic", image)]
        return [("mask", mask_to_uint8(mask)), ("synthetic", image), ("with outline", outlined(image, mask))]


def galleries(
    pictures: CasePictures,
    stems: Sequence[str],
    matches: Mapping[int, int],
    neighbours: Mapping[str, Neighbours],
    dice: Floats | None,
) -> list[Gallery]:
    """The galleries of a report.

    ``stems`` are those of the S synthetic images. ``matches`` maps synthetic images to the real images with
    the same mask. ``neighbours`` are by feature space; the first one is used to judge realism. ``dice`` is
    mask adherence, (S,), or None.
    """
    made = [_contact_sheet(pictures, stems, matches)]
    if dice is not None:
        made.append(_by_adherence(pictures, stems, dice))
    if neighbours:
        made += [_by_realism(pictures, stems, neighbours), _closest(pictures, stems, neighbours)]
    return made


def _contact_sheet(pictures: CasePictures, stems: Sequence[str], matches: Mapping[int, int]) -> Gallery:
    """Evenly spaced synthetic images, each with the real image of its mask."""
    strips = []
    for i in spread(len(stems), _SAMPLES):
        shown = pictures.of(i)
        if matches:
            blank = np.full((_SIDE, _SIDE, 3), 255, np.uint8)
            shown.insert(1, ("real", pictures.real(matches[i]) if i in matches else blank))
        strips.append(Strip(stems[i], "", tuple(shown)))
    return Gallery("Samples", "Taken at equal steps through the set, not chosen.", "contact_sheet", strips)


def _by_adherence(pictures: CasePictures, stems: Sequence[str], dice: Floats) -> Gallery:
    strips = [
        Strip(stems[i], f"{end}, Dice {dice[i]:.3f}", tuple(pictures.of(i)))
        for end, i in _ends(np.argsort(dice, kind="stable"))
    ]
    text = "What the segmentation network finds least and most of the mask that was asked for in."
    return Gallery("Worst and best by mask adherence", text, "cases_by_adherence", strips)


def _by_realism(
    pictures: CasePictures, stems: Sequence[str], neighbours: Mapping[str, Neighbours]
) -> Gallery:
    name, found = next(iter(neighbours.items()))
    strips = [
        Strip(
            stems[i],
            f"{end}, distance {found.realism[i]:.3g}",
            (*pictures.of(i), ("nearest real", pictures.real(int(found.index[i])))),
        )
        for end, i in _ends(np.argsort(-found.realism, kind="stable"))
    ]
    text = f"By the mean distance to the three nearest real images [{name}]; the smaller the more lifelike."
    return Gallery("Worst and best by realism", text, "cases_by_realism", strips)


def _closest(pictures: CasePictures, stems: Sequence[str], neighbours: Mapping[str, Neighbours]) -> Gallery:
    """The synthetic images closest to a real one, relative to the usual distance between real images."""
    usual = {name: float(np.median(found.reference)) or 1.0 for name, found in neighbours.items()}
    ratios = np.min([found.nearest / usual[name] for name, found in neighbours.items()], axis=0)
    strips = []
    for i in np.argsort(ratios, kind="stable")[:_CLOSEST]:
        nearest = [
            (f"nearest [{name}]", pictures.real(int(found.index[i]))) for name, found in neighbours.items()
        ]
        detail = ", ".join(f"{found.nearest[i] / usual[name]:.2f}" for name, found in neighbours.items())
        strips.append(Strip(stems[i], detail, (("synthetic", pictures.synthetic(int(i))), *nearest)))
    text = (
        "The synthetic images closest to a real one. The numbers are their distances, in the order of the "
        "pictures, over the median distance of a real image to the nearest other: far below 1 is a copy."
    )
    return Gallery("Closest to real images", text, "memorised_pairs", strips)


def spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` evenly spaced indices of 0..``count`` - 1."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(wanted, count))})


def _ends(order: NDArray[np.intp]) -> Iterable[tuple[str, int]]:
    """A few from the start ("worst") and the end ("best") of ``order``, without repeating any."""
    few = min(_CASES, max(1, len(order) // 2))
    yield from (("worst", int(i)) for i in order[:few])
    yield from (("best", int(i)) for i in order[few:][-few:][::-1])
