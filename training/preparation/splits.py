"""Splitting pairs into training, validation and test sets reproducibly, independent of their order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import torch

from siamese_core.errors import UserError
from siamese_core.files import natural_key
from siamese_core.pairs.pair_files import Pair
from siamese_core.seeds import generator, stream_seed

Ratio = tuple[int, int, int]
"""Proportions of training, validation and test; 0 leaves a set out."""

SPLITS = ("train", "validation", "test")

SPLIT_NAME = re.compile(r"^(train|validation|val|test)_")
"""The split at the beginning of a stem."""


class SplitError(UserError):
    """Pairs cannot be split as asked; the message says which number does not fit."""


def parse_ratio(text: str) -> Ratio:
    """Parse ``3:1:1`` to (3, 1, 1). Raises SplitError unless it is three whole numbers, the first above 0."""
    parts = text.split(":")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts) or int(parts[0]) == 0:
        raise SplitError(f"--split must be training:validation:test such as 3:1:1, not {text!r}")
    return int(parts[0]), int(parts[1]), int(parts[2])


def split_by_ratio(pairs: Sequence[Pair], ratio: Ratio, seed: int) -> dict[str, list[Pair]]:
    """Split ``pairs`` (with unique stems) at random in the proportions of ``ratio``, with rounded cut points.

    Raises SplitError when a set with a nonzero proportion would be empty.
    """
    shuffled = _shuffled(pairs, seed)
    cuts = [0, *(round(len(pairs) * part / sum(ratio)) for part in accumulate(ratio))]
    sets = {name: shuffled[cuts[k] : cuts[k + 1]] for k, name in enumerate(SPLITS)}
    for name, share in zip(SPLITS, ratio, strict=True):
        if share and not sets[name]:
            text = ":".join(map(str, ratio))
            raise SplitError(
                f"--split {text} of {len(pairs)} pairs leaves none for {name}; change the ratio (0 leaves a "
                "set out), or add pairs"
            )
    return {name: _in_order(part) for name, part in sets.items() if part}


def split_by_count(pairs: Sequence[Pair], count: int, seed: int) -> dict[str, list[Pair]]:
    """Draw ``count`` of the ``pairs`` (with unique stems) for training and leave the others for testing.

    With the same seed, a smaller training set is a subset of a larger one. Raises SplitError if one of the
    sets would be empty.
    """
    if not 0 < count < len(pairs):
        emptied, mend = ("train", "raise it") if count < 1 else ("test", "lower it")
        raise SplitError(
            f"--train {count} of {len(pairs)} pairs leaves none for {emptied}; {mend}, or add pairs"
        )
    shuffled = _shuffled(pairs, seed)
    return {"train": _in_order(shuffled[:count]), "test": _in_order(shuffled[count:])}


def pooled(sets: Mapping[str, Sequence[Pair]]) -> list[Pair]:
    """All pairs of ``sets`` together; if any stems repeat, every stem is prefixed with its set's name."""
    counts = Counter(pair.stem for pairs in sets.values() for pair in pairs)
    if all(count == 1 for count in counts.values()):
        return [pair for pairs in sets.values() for pair in pairs]
    return [
        replace(pair, stem=f"{name.rpartition('/')[2]}_{pair.stem}")
        for name, pairs in sets.items()
        for pair in pairs
    ]


def pooled_by_set(sets: Mapping[str, Sequence[Pair]]) -> list[Pair]:
    """All pairs of ``sets`` together, with stems that begin with their set's name if there are several.

    :func:`image_of` then names different images in different sets, whatever their stems were.
    """
    if len(sets) == 1:
        return [pair for pairs in sets.values() for pair in pairs]
    return [
        replace(pair, stem=f"{re.sub('[_/]', '-', name)}-{SPLIT_NAME.sub('', pair.stem)}")
        for name, pairs in sets.items()
        for pair in pairs
    ]


def _shuffled(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    ordered = sorted(pairs, key=lambda pair: pair.stem)
    order = torch.randperm(len(ordered), generator=generator(stream_seed(seed, "split")))
    return [ordered[place] for place in order.tolist()]


def _in_order(pairs: Sequence[Pair]) -> list[Pair]:
    return sorted(pairs, key=lambda pair: (natural_key(pair.stem), pair.stem))


def image_of(stem: str) -> str:
    """The image name in a pair's stem: the part before the first ``_``, such as ``a1b2`` of ``a1b2_3``.

    A leading ``train_``, ``validation_`` or ``test_`` belongs to it: ``test_a1b2`` of ``test_a1b2_3``.
    """
    split = SPLIT_NAME.match(stem)
    start = split.end() if split else 0
    return stem[:start] + stem[start:].partition("_")[0]


def split_by_images(pairs: Sequence[Pair], test_share: float, seed: int) -> dict[str, list[Pair]]:
    """Split ``pairs`` into train and test so that all pieces of an image are in the same set.

    The images of each prompt (of an image's first pair) are split separately, so that both sets have all
    kinds. Raises SplitError if one of the sets would be empty.
    """
    by_kind: dict[str, dict[str, list[Pair]]] = {}
    kind_of: dict[str, str] = {}
    for pair in sorted(pairs, key=lambda pair: pair.stem):
        image = image_of(pair.stem)
        kind = kind_of.setdefault(image, pair.prompt or "")
        by_kind.setdefault(kind, {}).setdefault(image, []).append(pair)
    sets: dict[str, list[Pair]] = {"train": [], "test": []}
    for kind, images in sorted(by_kind.items()):
        order = _order(len(images), seed, f"split-images-{kind}")
        ordered = [list(images)[place] for place in order]
        held_out = round(test_share * len(images))
        for image in ordered[:held_out]:
            sets["test"] += images[image]
        for image in ordered[held_out:]:
            sets["train"] += images[image]
    if not sets["train"] or not sets["test"]:
        raise SplitError(
            f"a test share of {test_share:g} of {len(kind_of)} images leaves none for one of the sets; "
            "change it, or add images"
        )
    return {name: _in_order(part) for name, part in sets.items()}


def draw_labels(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """Draw ``count`` of ``pairs``, each of a different image, in proportion to prompts, at least one each.

    Raises SplitError when ``count`` exceeds the number of images or is below the number of prompts.
    """
    by_kind: dict[str, dict[str, Pair]] = {}
    seen: set[str] = set()
    ordered = sorted(pairs, key=lambda pair: pair.stem)
    for place in _order(len(ordered), seed, "labels"):
        pair = ordered[place]
        if (image := image_of(pair.stem)) not in seen:
            seen.add(image)
            by_kind.setdefault(pair.prompt or "", {})[image] = pair
    if not len(by_kind) <= count <= len(seen):
        raise SplitError(
            f"{count} labels of {len(seen)} images with {len(by_kind)} prompts cannot be drawn; ask for "
            f"{len(by_kind)} to {len(seen)}"
        )
    taken = dict.fromkeys(by_kind, 1)
    for _ in range(count - len(by_kind)):  # add one to the kind that is furthest below its share
        kind = min(
            (kind for kind in sorted(by_kind) if taken[kind] < len(by_kind[kind])),
            key=lambda kind: taken[kind] / len(by_kind[kind]),
        )
        taken[kind] += 1
    return _in_order(
        [pair for kind, number in taken.items() for pair in list(by_kind[kind].values())[:number]]
    )


def _order(count: int, seed: int, stream: str) -> list[int]:
    order: list[int] = torch.randperm(count, generator=generator(stream_seed(seed, stream))).tolist()
    return order
