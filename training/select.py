"""Select the synthetic pairs that are worth training on, and record why each of the others was rejected.

    python -m training.select --pairs SYNTHETIC --real REAL --output DIR

A pair is kept if it passes both tests:
- agreement: a segmentation network trained only on the real pairs (or --segmenter FILE, written by
  training.segment --save-networks) finds the pair's mask in its image with a Dice of at least --min-dice;
- realism: the image is no farther from the real ones than --max-distance times the usual distance. An image's
  distance is the mean over the --neighbours nearest real images in the feature space of --extractor; the
  usual distance is the median of this over the real images, each compared with the others.

Output: OUTPUT/images, masks, prompt.json and, if the pairs have one, manifest.jsonl (files copied byte for
byte, lines unchanged), which every command reads as pairs; rejected.csv (the reason for each rejected pair);
selection.json (settings, distributions, scores of each kept pair). If no pair is kept, nothing is written.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from tqdm import tqdm

from siamese_core.errors import UserError
from siamese_core.files import whole_folder
from siamese_core.overlap import places_of, require_apart
from siamese_core.pairs.manifest import MANIFEST
from siamese_core.pairs.pair_copies import copy_pairs
from siamese_core.pairs.pair_files import Pair, find_pairs
from siamese_core.settings import COUNT, SEED, SHARE, THREADS, Range, option

from .command_line.mask_options import MaskOptions
from .command_line.notes import note
from .command_line.options import (
    OptionError,
    add_flags,
    command_parser,
    plain,
    require_empty,
    run_command,
    settings_of,
)
from .command_line.pair_checking import checked
from .evaluation.metrics.features import EFFICIENTNET, WeightPlaces, extract, load_extractors
from .segmentation.batches import PairReader
from .segmentation.fitting import Segmenter, fit, fit_settings, load_segmenter, predictions
from .segmentation.networks.registry import NETWORKS, build_network
from .segmentation.scores import dice_scores
from .statistics.intervals import Floats

_CACHE_BYTES = 2 * 10**9
_TORCHSCRIPT_SIDE = 224
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class SelectionError(UserError):
    """No pair can be kept; the message shows the values that the pairs reach."""


@dataclass(frozen=True)
class SelectSettings(MaskOptions):
    """Thresholds, and settings of the network and features that judge the pairs."""

    pairs: Path = option(Path(), "synthetic pairs: a folder, or a prompt.json")
    real: Path = option(Path(), "real pairs to compare them with")
    output: Path = option(Path(), "folder for the selected pairs, new or empty")
    min_dice: float = option(0.7, "minimum Dice between the segmenter's mask and the pair's", SHARE)
    max_distance: float = option(
        1.3,
        "maximum distance from real images, relative to what is usual among them (1)",
        Range(0, open_low=True),
    )
    segmenter: Path | None = option(None, "trained segmentation network, instead of training one")
    network: str = option("small-unet", "segmentation network to train")
    pretrained: bool = option(
        False, "start the network from an ImageNet-pretrained backbone, downloaded if needed"
    )
    steps: int | None = option(
        None, "the network's optimiser steps; default: its own epochs, counted on the real pairs", COUNT
    )
    batch_size: int | None = option(None, "the network's pairs per step", COUNT)
    resolution: int | None = option(
        None, "side in pixels to which images are stretched for the network", Range(32, 16384)
    )
    neighbours: int = option(3, "number of nearest real images used to judge realism", COUNT)
    extractor: str = option(EFFICIENTNET, "features for realism; also inception, clip or a TorchScript file")
    seed: int = option(42, "seed of the network's training", SEED)
    threads: int = option(0, "CPU threads; 0 uses torch's default", THREADS)


@dataclass(frozen=True)
class Judgement:
    """Measurements of S pairs: ``dice`` (S,), relative ``distance`` (S,), and that of R real images (R,)."""

    dice: Floats
    distance: Floats
    real_distance: Floats


def main(arguments: Sequence[str] | None = None) -> int:
    settings = _parse(arguments)
    _check_settings(settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    pairs, real = (
        find_pairs(folder, default_prompt="", tell=note) for folder in (settings.pairs, settings.real)
    )
    files = (file for pair in (*pairs, *real) for file in (pair.image, pair.mask))
    require_apart([settings.output], places_of(files))
    for folder, found in ((settings.pairs, pairs), (settings.real, real)):
        checked(found, settings.mask_rule, place=folder)
    if len(real) <= settings.neighbours:
        raise OptionError(
            f"{settings.real}: {len(real)} real pairs are too few for --neighbours {settings.neighbours}; "
            "add pairs, or lower it"
        )
    if settings.segmenter is not None:
        _note_unused(settings)
    device = Accelerator().device
    judgement = _judged(settings, pairs, real, device)
    reasons = rejections(judgement, settings.min_dice, settings.max_distance)
    kept = reasons.count("")
    distributions = _distributions(judgement)
    print(f"\n{_as_text(distributions)}\n")
    if not kept:
        raise SelectionError(
            f"no pair of {len(pairs)} reaches Dice {settings.min_dice:g} within distance "
            f"{settings.max_distance:g}; the highest Dice is {judgement.dice.max():.3f}, the least distance "
            f"{judgement.distance.min():.3f} (quantiles above); lower --min-dice or raise --max-distance"
        )
    _write(settings, pairs, judgement, reasons, distributions)
    print(f"{kept} of {len(pairs)} pairs kept in {settings.output}")
    for name, count in _reason_counts(reasons).items():
        print(f"rejected for {name}: {count}")
    return 0


def relative_distances(
    real: NDArray[np.float32], synthetic: NDArray[np.float32], neighbours: int
) -> tuple[Floats, Floats]:
    """Mean distances to the ``neighbours`` nearest real images, relative to the median among real images.

    ``real`` (R, D) with R > ``neighbours`` and ``synthetic`` (S, D) are features. Returns the relative
    distances of the synthetic images (S,) and of the real ones, each excluding itself, (R,). Raises
    SelectionError when most real images have that many copies.
    """
    search = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(real.astype(np.float64))
    among_real = search.kneighbors()[0].mean(axis=1)
    usual = float(np.median(among_real))
    if usual == 0:
        raise SelectionError("most real images occur several times, so that their distances are no measure")
    return search.kneighbors(synthetic.astype(np.float64))[0].mean(axis=1) / usual, among_real / usual


def rejections(judgement: Judgement, min_dice: float, max_distance: float) -> list[str]:
    """The reason why each pair is rejected; empty for pairs that are kept."""
    reasons = []
    for dice, distance in zip(judgement.dice, judgement.distance, strict=True):
        found = []
        if dice < min_dice:
            found.append(f"agreement: Dice {dice:.3f} is below {min_dice:g}")
        if distance > max_distance:
            found.append(f"realism: distance {distance:.3f} is above {max_distance:g}")
        reasons.append("; ".join(found))
    return reasons


def _judged(
    settings: SelectSettings, pairs: Sequence[Pair], real: Sequence[Pair], device: torch.device
) -> Judgement:
    extractor = load_extractors(settings.extractor, WeightPlaces(), _TORCHSCRIPT_SIDE)[0]
    segmenter = load_segmenter(settings.segmenter) if settings.segmenter else _trained(settings, real, device)
    segmenter.network.to(device)
    reader = _reader(settings, segmenter.resolution, own_masks=True)
    found = tqdm(predictions(segmenter, reader, pairs, device), "agreement", len(pairs), mininterval=1.0)
    dice = np.array([dice_scores(predicted[None], mask[None])[0] for (_, mask), predicted in found])
    features = [
        extract(extractor, [pair.image for pair in part], device=device, label=label)
        for part, label in ((real, "real"), (pairs, "synthetic"))
    ]
    return Judgement(dice, *relative_distances(features[0], features[1], settings.neighbours))


def _trained(settings: SelectSettings, real: Sequence[Pair], device: torch.device) -> Segmenter:
    numbers = fit_settings(
        settings.network,
        len(real),
        steps=settings.steps,
        batch_size=settings.batch_size,
        resolution=settings.resolution,
    )
    network = build_network(settings.network, seed=settings.seed, pretrained=settings.pretrained)
    reader = _reader(settings, numbers.resolution, own_masks=False, cache_bytes=_CACHE_BYTES)
    fit(network, reader, real, numbers, seed=settings.seed, device=device, label="segmenter")
    return Segmenter(network, settings.network, numbers.resolution)


def _reader(settings: SelectSettings, side: int, *, own_masks: bool, cache_bytes: int = 0) -> PairReader:
    return PairReader(
        side,
        own_masks=own_masks,
        rule=settings.mask_rule,
        cache_bytes=cache_bytes,
    )


def _distributions(judgement: Judgement) -> dict[str, dict[str, float]]:
    """Quantiles of the Dice and distances of pairs and real images."""
    values = {
        "Dice": judgement.dice,
        "distance": judgement.distance,
        "distance among real images": judgement.real_distance,
    }
    return {
        name: {f"{level:.0%}": round(float(np.quantile(one, level)), 4) for level in _QUANTILES}
        for name, one in values.items()
    }


def _note_unused(settings: SelectSettings) -> None:
    """Print a note on given settings of a network's training, which a trained one does not need."""
    names = ("network", "pretrained", "steps")
    given = [f"--{name}" for name in names if getattr(settings, name) != getattr(SelectSettings, name)]
    if given:
        note(f"{' and '.join(given)} not used: --segmenter gives a network that is trained already")


def _as_text(distributions: Mapping[str, Mapping[str, float]]) -> str:
    width = max(map(len, distributions))
    lines = [" " * width + "".join(f"{level:>8.0%}" for level in _QUANTILES)]
    for name, values in distributions.items():
        lines.append(f"{name:{width}}" + "".join(f"{value:8.3f}" for value in values.values()))
    return "\n".join(lines)


def _reason_counts(reasons: Sequence[str]) -> dict[str, int]:
    """The number of pairs that fail each threshold; a pair may fail both."""
    return {name: sum(f"{name}:" in reason for reason in reasons) for name in ("agreement", "realism")}


def _write(
    settings: SelectSettings,
    pairs: Sequence[Pair],
    judgement: Judgement,
    reasons: Sequence[str],
    distributions: Mapping[str, Mapping[str, float]],
) -> None:
    """Write the kept pairs, rejected.csv and selection.json; the folder appears complete or not at all."""
    with whole_folder(settings.output, replace=False) as temporary:
        kept = [pair for pair, reason in zip(pairs, reasons, strict=True) if not reason]
        copy_pairs(temporary, kept, _manifest_of(settings.pairs))
        rows = [
            {"stem": pair.stem, "dice": round(float(dice), 6), "distance": round(float(distance), 6)}
            for pair, dice, distance in zip(pairs, judgement.dice, judgement.distance, strict=True)
        ]
        judged = list(zip(rows, reasons, strict=True))
        text = io.StringIO()
        writer = csv.DictWriter(text, ("stem", "dice", "distance", "reason"), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "reason": reason} for row, reason in judged if reason)
        (temporary / "rejected.csv").write_bytes(text.getvalue().encode("utf-8"))
        selection = {
            "settings": plain(settings),
            "kept": len(kept),
            "rejected": len(pairs) - len(kept),
            "rejected_for": _reason_counts(reasons),
            "quantiles": distributions,
            "pairs": [row for row, reason in judged if not reason],
        }
        (temporary / "selection.json").write_text(json.dumps(selection, indent=1) + "\n", "utf-8")


def _manifest_of(source: Path) -> Path | None:
    path = (source if source.is_dir() else source.parent) / MANIFEST
    return path if path.is_file() else None


def _check_settings(settings: SelectSettings) -> None:
    for name in ("pairs", "real", "output"):
        if getattr(settings, name) == Path():
            raise OptionError(f"--{name} is needed")
    require_empty(settings.output)
    if settings.network not in NETWORKS:
        raise OptionError(f"--network {settings.network} is not known; take one of {', '.join(NETWORKS)}")


def _parse(arguments: Sequence[str] | None) -> SelectSettings:
    parser = command_parser("select", __doc__)
    parser.add_argument("--config", type=Path, help="TOML file with any of the settings")
    add_flags(parser, SelectSettings)
    args = parser.parse_args(arguments)
    return settings_of(SelectSettings, args)


if __name__ == "__main__":
    run_command(main)
