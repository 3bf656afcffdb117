"""Convert a dataset to the layout that all commands read, split and check it, and report what it contains.

    python -m training.prepare SOURCE --output DIR

SOURCE is a folder of Kvasir-SEG, CVC-ClinicDB, ISIC2016 or ISIC2018 as published, of the polyp sets in
PraNet's layout (TrainDataset, TestDataset/<name>), or any folder with images/ and masks/ or a prompt.json,
alone or in train/, validation/ and test/. Stems train_*, validation_* and test_* also define a split.

Output: OUTPUT/train, OUTPUT/validation and OUTPUT/test (PraNet's sets: OUTPUT/test/<name>), each with
images/, masks/ (PNG of 0 and 255) and prompt.json, and OUTPUT/prepare.json: counts, image sizes, mask areas,
lesions, and near-duplicates across the sets. PNG and JPEG images are copied byte for byte; other formats, and
images that EXIF rotates or that have more than 8 bits, are saved as PNG. The files appear only at the end,
all at once; if anything fails, nothing is written.

An existing split is kept. Without one, or with --split or --train, pairs are drawn from all of them with
--seed. --train 200 uses 200 pairs for training and all others for testing.

--crop 128 cuts images larger than the model into tiles of 128 px without rescaling, with all tiles of an
image in the same set; tiles without foreground are left out. --modes name (violet_12 is violet) or --modes
colour --mode-count 4 (clustering) adds the kind of image to its prompt, so that rare kinds can be learnt
(training.train --balance-prompts) and requested.

--copies 8 writes every training pair, as PNG, in the eight orientations of a square (four if it is not
square) and in varied brightness, for training a generative model on few pairs: it then learns where the
objects of a mask are, and its base decides how bright the image is. Dark images are mostly brightened, bright
ones darkened a little. Split first, copy then: copies are refused as a source for a new split. Segmentation
networks need no copies, since they augment pairs themselves.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from siamese_core.errors import UserError
from siamese_core.files import whole_folder, write_text_atomic
from siamese_core.masks.image_decoding import image_header
from siamese_core.masks.resizing import mask_to_uint8
from siamese_core.overlap import places_of, require_apart
from siamese_core.pairs.pair_files import PROMPT_FILE, LoadedPair, Pair, load_pair, read_image
from siamese_core.pairs.pair_writer import png_bytes
from siamese_core.pairs.written_masks import PREPARATION_REPORT
from siamese_core.seeds import stream_seed
from siamese_core.settings import COUNT, SEED, Range, option

from .command_line.mask_options import MaskOptions
from .command_line.notes import note
from .command_line.options import (
    OptionError,
    add_flags,
    command_parser,
    require_empty,
    run_command,
    settings_of,
)
from .command_line.pair_checking import checked
from .preparation.dataset_layouts import Dataset, LayoutName, Sets, read_dataset
from .preparation.dataset_statistics import PairFacts, SetFacts, facts_table, pair_facts, set_facts
from .preparation.modes import ModeSource, modes_by_colour, modes_by_name
from .preparation.near_duplicates import HASH_BITS, NEAR, near_duplicates, perceptual_hash
from .preparation.splits import parse_ratio, pooled, split_by_count, split_by_ratio
from .preparation.tiles import TileError, image_of_tile, tiles
from .preparation.varied_copies import copy_stem, original_of, varied_copies

DEFAULT_RATIO = "3:1:1"

_COPIED = (".png", ".jpg", ".jpeg")
_SHOWN_MATCHES = 5


class PrepareError(UserError):
    """A dataset cannot be prepared; the message names the file or folder and the fix."""


@dataclass(frozen=True)
class PrepareSettings(MaskOptions):
    """Output folder, and how pairs are read and split."""

    output: Path = option(Path(), "folder for the sets, new or empty")
    layout: LayoutName | None = option(None, "layout of SOURCE; default: recognised from its folders")
    prompt: str | None = option(
        None, "prompt for every pair; default: the pair's own from a prompt.json, otherwise the layout's"
    )
    split: str | None = option(
        None, f"training:validation:test; default: the data's own split, otherwise {DEFAULT_RATIO}"
    )
    train: int | None = option(None, "use this many pairs for training and all others for testing", COUNT)
    seed: int = option(42, "seed of the random split", SEED)
    crop: int | None = option(
        None, "cut images into tiles of this side in pixels, without rescaling", Range(32, 16384)
    )
    keep_empty: bool = option(False, "with --crop: keep tiles without foreground")
    modes: ModeSource | None = option(
        None, "add the kind of image to its prompt, taken from its file name or from colour clustering"
    )
    mode_count: int | None = option(None, "number of kinds that --modes colour distinguishes", Range(2, 64))
    copies: int = option(
        1, "copies of every training pair, in eight orientations and varied brightness", COUNT
    )
    brightness: tuple[float, float] = option(
        (0.8, 6.0),
        "with --copies: smallest and largest factor of brightness, cut off where the image would saturate",
        Range(0, 100, open_low=True),
    )


@dataclass(frozen=True)
class WrittenSet:
    """Stems, facts and perceptual hashes (N, HASH_BITS) of the pairs in a written set."""

    stems: list[str]
    facts: list[PairFacts]
    hashes: NDArray[np.bool_]


def main(arguments: Sequence[str] | None = None) -> int:
    args, settings = _parse(arguments)
    _check_settings(settings)
    source: Path = args.source
    dataset = read_dataset(source, settings.layout, settings.prompt, note)
    pairs = [pair for part in dataset.sets.values() for pair in part]
    require_apart([settings.output], places_of(file for pair in pairs for file in (pair.image, pair.mask)))
    if settings.modes:
        dataset = replace(dataset, sets=with_modes(dataset.sets, settings))
    sets, division = divide(dataset, settings)
    _check_siblings(source, sets, settings, official=division["split"] == "official")
    told = ", ".join(f"{name} {value}" for name, value in division.items())
    print(f"{source}: {sum(map(len, sets.values()))} pairs, layout {dataset.layout}, {told}")
    notes = checked([pair for one in sets.values() for pair in one], settings.mask_rule).notes
    with _output_folder(settings.output) as folder:
        written, empty = _write_sets(folder, sets, settings)
        if empty:
            notes = [*notes, f"{empty} tiles without foreground left out; --keep-empty keeps them"]
        copies: dict[str, Any] = {}
        if settings.copies > 1:
            notes = [*notes, f"{settings.copies} copies of each training pair; the figures count it once"]
            note(notes[-1])
            copies = {name: getattr(settings, name) for name in ("copies", "brightness", "seed")}
        facts = {name: set_facts(one.facts) for name, one in written.items()}
        report = {
            "source": str(source),
            "layout": dataset.layout,
            **division,
            **copies,
            "prompts": dict(Counter(pair.prompt for pairs in sets.values() for pair in pairs).most_common()),
            "notes": notes,
            "sets": {name: asdict(set_of_facts) for name, set_of_facts in facts.items()},
            "near_duplicates": _duplicates(written),
        }
        print("flushing to the disk")  # may take as long as everything else
        write_text_atomic(
            folder / PREPARATION_REPORT, json.dumps(report, indent=1, ensure_ascii=False) + "\n"
        )
    _print_report(report, facts)
    print(f"written to {settings.output}; all figures are in {settings.output / PREPARATION_REPORT}")
    return 0


def divide(dataset: Dataset, settings: PrepareSettings) -> tuple[Sets, dict[str, str | int]]:
    """The sets to write, and the split for the report (with the seed, if pairs were drawn).

    Raises SplitError for a ratio or a count that does not fit the pairs.
    """
    if settings.train is not None:
        sets = split_by_count(pooled(dataset.sets), settings.train, settings.seed)
        return sets, {"split": f"{settings.train}:0:rest", "seed": settings.seed}
    if dataset.is_split and settings.split is None:
        return dataset.sets, {"split": "official"}
    text = settings.split or DEFAULT_RATIO
    drawn = split_by_ratio(pooled(dataset.sets), parse_ratio(text), settings.seed)
    return drawn, {"split": text, "seed": settings.seed}


def with_modes(sets: Sets, settings: PrepareSettings) -> Sets:
    """``sets`` with the kind of each image appended to its prompt. Raises ModeError."""
    pairs = [pair for part in sets.values() for pair in part]
    if settings.mode_count is not None:
        progress = tqdm(pairs, "reading colours", unit="image", mininterval=1.0)
        images = (read_image(pair.image) for pair in progress)
        modes = modes_by_colour(images, settings.mode_count, settings.seed)
    else:
        images_of_pairs = [_image(pair.stem) for pair in pairs]
        names = [*dict.fromkeys(images_of_pairs)]
        mode_of = dict(zip(names, modes_by_name(names), strict=True))
        modes = [mode_of[name] for name in images_of_pairs]
    told = iter(modes)
    return {
        name: [replace(pair, prompt=f"{pair.prompt}, {next(told)}") for pair in part]
        for name, part in sets.items()
    }


def _write_sets(folder: Path, sets: Sets, settings: PrepareSettings) -> tuple[dict[str, WrittenSet], int]:
    """Write all sets below ``folder``; return what was written and the number of empty tiles left out."""
    written: dict[str, WrittenSet] = {}
    empty = 0
    with tqdm(total=sum(map(len, sets.values())), desc="preparing", unit="pair", mininterval=1.0) as progress:
        for name, pairs in sets.items():
            stems, facts, hashes = [], [], []
            count = settings.copies if name == "train" else 1
            for pair in pairs:
                loaded = load_pair(pair, size=None, rule=settings.mask_rule)
                for piece, image, mask in _pieces(pair, loaded, settings.crop):
                    if settings.crop and not settings.keep_empty and not mask.any():
                        empty += 1
                        continue
                    for copy in _copies(piece, image, mask, count, settings):
                        _write_pair(folder / name, *copy, as_it_is=settings.crop is None and count == 1)
                    stems.append(piece.stem)
                    facts.append(pair_facts(mask))
                    hashes.append(perceptual_hash(image))
                progress.update()
            if hashes:
                written[name] = WrittenSet(stems, facts, np.stack(hashes))
    return written, empty


def _pieces(
    pair: Pair, loaded: LoadedPair, crop: int | None
) -> Iterator[tuple[Pair, NDArray[np.uint8], NDArray[np.bool_]]]:
    """The pair itself, or its tiles of side ``crop``, whose stems contain their position."""
    if crop is None:
        yield pair, loaded.image, loaded.mask
        return
    try:
        for place, image, mask in tiles(loaded.image, loaded.mask, crop):
            yield replace(pair, stem=f"{pair.stem}_{place}"), image, mask
    except TileError as error:
        raise PrepareError(f"{pair.image}: {error}") from error


def _copies(
    pair: Pair, image: NDArray[np.uint8], mask: NDArray[np.bool_], count: int, settings: PrepareSettings
) -> Iterator[tuple[Pair, NDArray[np.uint8], NDArray[np.bool_]]]:
    """The pair itself, or its copies if ``count`` is above 1, whose stems end with their number."""
    if count == 1:
        yield pair, image, mask
        return
    seed = stream_seed(settings.seed, f"brightness of {pair.stem}")
    for number, copy in enumerate(varied_copies(image, mask, count, settings.brightness, seed)):
        yield replace(pair, stem=copy_stem(pair.stem, number)), *copy


def _write_pair(
    folder: Path, pair: Pair, image: NDArray[np.uint8], mask: NDArray[np.bool_], *, as_it_is: bool
) -> None:
    suffix = pair.image.suffix.lower()
    is_copied = as_it_is and suffix in _COPIED and _shows_its_pixels(pair.image)
    image_name = f"images/{pair.stem}{suffix if is_copied else '.png'}"
    mask_name = f"masks/{pair.stem}.png"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if (folder / mask_name).exists():  # on a case-insensitive file system, for instance
        raise PrepareError(f"{pair.image}: another pair has the name '{pair.stem}' too; rename one of them")
    if is_copied:
        shutil.copyfile(pair.image, folder / image_name)
    else:
        (folder / image_name).write_bytes(png_bytes(image))
    (folder / mask_name).write_bytes(png_bytes(mask_to_uint8(mask)))
    entry = {"source": mask_name, "target": image_name, "prompt": pair.prompt}
    with (folder / PROMPT_FILE).open("a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _shows_its_pixels(image: Path) -> bool:
    """Whether every reader sees the pixels as read here: no EXIF rotation and at most 8 bits of grey."""
    header = image_header(image, "image")
    return header.orientation == 1 and not header.is_deep_grey


def _duplicates(written: Mapping[str, WrittenSet]) -> dict[str, Any]:
    """Near-duplicates across the sets and the closest images, near or not, in JSON types."""
    found = near_duplicates({name: one.hashes for name, one in written.items()})
    closest = [
        {
            "distance": match.distance,
            "images": [f"{name}/{written[name].stems[place]}" for name, place in (match.first, match.second)],
        }
        for match in found.closest
    ]
    return {
        "method": f"pHash, at most {NEAR} of {HASH_BITS} bits different",
        "count": found.count,
        "between": {f"{a}, {b}": count for (a, b), count in found.counts.items()},
        "closest": closest[: max(found.count, _SHOWN_MATCHES)],
    }


def _print_report(report: Mapping[str, Any], facts: Mapping[str, SetFacts]) -> None:
    prompts = list(report["prompts"])
    print(f"prompt: {prompts[0]!r}" + (f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""))
    print(f"\n{facts_table(facts)}\n")
    duplicates = report["near_duplicates"]
    print(f"near-duplicates across sets: {duplicates['count']} ({duplicates['method']})")
    for sets, count in duplicates["between"].items():
        print(f"  {count} between {sets}")
    print("closest images across sets:")
    for match in duplicates["closest"][:_SHOWN_MATCHES]:
        print(f"  {match['distance']:3} bits  {'  '.join(match['images'])}")


@contextmanager
def _output_folder(output: Path) -> Iterator[Path]:
    """:func:`whole_folder` with errors that say what to do."""
    try:
        with whole_folder(output, replace=False) as temporary:
            yield temporary
    except OSError as error:
        raise PrepareError(
            f"{output}: not written ({error}); make room on the disk, grant access, or give another --output"
        ) from error


def _check_settings(settings: PrepareSettings) -> None:
    output = settings.output
    if output == Path():
        raise OptionError("--output is needed")
    require_empty(output)
    if settings.train is not None and settings.split is not None:
        raise OptionError("--train and --split exclude each other; give one of them")
    if settings.split is not None:
        parse_ratio(settings.split)
    if (settings.modes == "colour") != (settings.mode_count is not None):
        raise OptionError("--modes colour and --mode-count belong together; give both or neither")
    if len(settings.brightness) != 2 or settings.brightness[0] > settings.brightness[1]:
        given = " ".join(f"{factor:g}" for factor in settings.brightness)
        raise OptionError(f"--brightness {given}: give two numbers, the smaller first")
    if settings.copies == 1 and settings.brightness != PrepareSettings.brightness:
        raise OptionError("--brightness is about --copies; give that too, or leave it out")
    if settings.keep_empty and settings.crop is None:
        raise OptionError("--keep-empty is about the tiles of --crop; give that too, or leave it out")


def _check_siblings(source: Path, sets: Sets, settings: PrepareSettings, *, official: bool) -> None:
    """Refuse to copy nothing, and to divide copies of a pair, or tiles of an image, between sets.

    Tiles that an ``official`` split divides are only told of.
    """
    if settings.copies > 1 and not sets.get("train"):
        raise PrepareError(f"{source}: no training pairs for --copies; give --split 1:0:0, or leave it out")
    if divided := _divided(sets, original_of):
        original, first, second = divided
        raise PrepareError(
            f"{source}: copies of '{original}' would be in {first} and in {second}; split the original data, "
            "then copy its training set"
        )
    if divided := _divided(sets, _tiled_image):
        image, first, second = divided
        if not official:
            raise PrepareError(
                f"{source}: tiles of '{image}' would be in {first} and in {second}; split the whole images, "
                "with --crop in the same command, or make train/ and test/ yourself"
            )
        note(f"{source}: by its own split, tiles of '{image}' are in {first} and in {second}")


def _tiled_image(stem: str) -> str | None:
    """The stem of the image that ``stem`` is a tile, or a copy of a tile, of."""
    return image_of_tile(original_of(stem) or stem)


def _image(stem: str) -> str:
    """The stem of the image that ``stem`` is, or is a tile or a copy of."""
    return _tiled_image(stem) or original_of(stem) or stem


def _divided(sets: Sets, origin: Callable[[str], str | None]) -> tuple[str, str, str] | None:
    """What several pairs stem from by ``origin`` of their stems, and two sets that they are in."""
    places: dict[str, str] = {}
    for name, pairs in sets.items():
        for pair in pairs:
            original = origin(pair.stem)
            if original and places.setdefault(original, name) != name:
                return original, places[original], name
    return None


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, PrepareSettings]:
    parser = command_parser("prepare", __doc__)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of the dataset, or a prompt.json")
    parser.add_argument("--config", type=Path, help="TOML file with any of the settings")
    add_flags(parser, PrepareSettings)
    args = parser.parse_args(arguments)
    return args, settings_of(PrepareSettings, args)


if __name__ == "__main__":
    run_command(main)
