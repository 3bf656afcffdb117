"""Titles and explanations of the metrics; a metric's name is ``kind[extractor]``."""

from __future__ import annotations

from typing import NamedTuple

from .memorisation import EXPECTED_SHARE


class Meaning(NamedTuple):
    """How to read a metric: its title, which direction is better, and a one-sentence explanation."""

    title: str
    better: str
    text: str


MEANINGS = {
    "fid": Meaning(
        "FID", "lower", "Fréchet distance of the two sets; compare at equal numbers of images only."
    ),
    "kid": Meaning("KID", "lower", "Kernel distance of the two sets, unbiased: about 0 for alike sets."),
    "cmmd": Meaning(
        "CMMD", "lower", "1000 times the biased MMD² of normalised features; published figures use CLIP."
    ),
    "precision": Meaning("precision", "higher", "Share of synthetic images that lie among the real ones."),
    "recall": Meaning("recall", "higher", "Share of real images that lie among the synthetic ones."),
    "clip-i": Meaning(
        "CLIP-I", "higher", "Mean CLIP cosine of a synthetic image and the real one of its mask."
    ),
    "cosine": Meaning("cosine", "higher", "As CLIP-I, with other features than CLIP's."),
    "diversity-cosine": Meaning(
        "diversity, 1 - cosine", "higher", "Among the synthetic images of one mask, by features."
    ),
    "lpips": Meaning("LPIPS", "", "Perceptual distance of a synthetic image and the real one of its mask."),
    "diversity-lpips": Meaning(
        "diversity, LPIPS", "higher", "Perceptual distance among the synthetic images of one mask."
    ),
    "close-share": Meaning(
        "suspiciously close",
        f"near {EXPECTED_SHARE:g}",
        f"Share nearer to a real image than all but {EXPECTED_SHARE:.0%} of the real ones are to another.",
    ),
    "distance-ratio": Meaning(
        "distance ratio", "near 1", "Median distance to the nearest real image, over that among real images."
    ),
    "adherence": Meaning(
        "mask adherence", "higher", "Dice of a segmenter trained on real pairs, on synthetic ones."
    ),
    "real-dice": Meaning("same on real pairs", "", "Dice of the same segmenter on held-out real pairs."),
    "adherence-ratio": Meaning("adherence ratio", "higher", "The former over the latter."),
}


def meaning_of(name: str) -> Meaning:
    """The meaning of the metric ``name``, such as ``kid[efficientnet-lite0]``."""
    return MEANINGS[name.partition("[")[0]]


def metric_title(name: str) -> str:
    """The title of metric ``name``, such as ``KID [efficientnet-lite0]`` for ``kid[efficientnet-lite0]``."""
    _, bracket, extractor = name.partition("[")
    return f"{meaning_of(name).title} {bracket}{extractor}"
