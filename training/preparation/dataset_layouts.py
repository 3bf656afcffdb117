"""Layouts of public datasets and plain folders: recognising a folder's layout and finding its pairs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from siamese_core.errors import UserError
from siamese_core.masks.folder_contents import Tell, tell_unread
from siamese_core.masks.mask_files import MASK_FOLDERS, first_subfolder
from siamese_core.pairs.pair_files import IMAGE_FOLDERS, PROMPT_FILE, Pair, find_pairs, pairs_of_folders
from siamese_core.pairs.written_masks import is_prepared

LayoutName = Literal["pranet", "isic2018", "isic2016", "cvc-clinicdb", "kvasir-seg", "plain"]

Sets = Mapping[str, Sequence[Pair]]
"""Pairs by set name: ``train``, ``validation``, ``test``, ``test/<name>``, or ``all``."""

POLYPS, SKIN_LESIONS, ANYTHING = "a photo of polyps", "a photo of skin lesions", "a medical image"

_WHOLE = "all"
_SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
_SPLIT_STEM = re.compile(r"(train|validation|val|test)_")
_ISIC_SETS = {"train": "Training", "validation": "Validation", "test": "Test"}
_CVC_MASKS = ("Ground Truth", "GroundTruth")
_KVASIR_BOXES = "kavsir_bboxes.json"  # spelled this way in the published archive
_KVASIR_NAMES = ("kvasir-seg", "kvasir_seg", "kvasirseg")
_KVASIR_STEM = re.compile(r"c[a-z0-9]{24}")


class DatasetError(UserError):
    """A folder has no known layout or is incomplete; the message says what was looked for."""


@dataclass(frozen=True)
class Dataset:
    """The pairs found in a folder; ``sets`` are the official split, or the single set ``all``."""

    layout: LayoutName
    sets: Sets

    @property
    def is_split(self) -> bool:
        """Whether the dataset has a split of its own."""
        return len(self.sets) > 1


def read_dataset(
    source: Path,
    layout: LayoutName | None = None,
    prompt: str | None = None,
    tell: Tell = lambda note: None,
) -> Dataset:
    """Find the pairs at ``source`` in ``layout``, or in the layout recognised by its folders.

    ``prompt`` is used for all pairs; without it a pair keeps its own or gets the layout's default. ``tell``
    is called with the messages of :func:`~siamese_core.pairs.pair_files.find_pairs`, with folders that are
    not read, and with a default prompt. Raises DatasetError when no layout or several fit, or ``layout`` does
    not, and PairError like :func:`~siamese_core.pairs.pair_files.find_pairs`.
    """
    if not source.exists():
        raise DatasetError(f"{source}: does not exist; check the path")
    told: set[str] = set()

    def tell_once(note: str) -> None:
        if note not in told:
            told.add(note)
            tell(note)

    chosen = layout or _recognised(source)
    kind = _LAYOUTS[chosen]
    if not kind.is_at(source):
        raise DatasetError(f"{source}: is not in the layout {chosen}; looked for {kind.sought}")
    sets = {name: pairs for name, pairs in kind.read(source, kind.prompt, tell_once).items() if pairs}
    every = [pair for pairs in sets.values() for pair in pairs]
    if source.is_dir():
        tell_unread(source, (path for pair in every for path in (pair.image, pair.mask)), tell_once)
    if len(sets) == 1:  # a training set alone is not a split
        sets = {_WHOLE: next(iter(sets.values()))}
    without = sum(pair.prompt == kind.prompt for pair in every)
    if prompt is None and without:
        reason = "" if layout else f", which {_sign(source, chosen)} shows"
        tell(
            f"{without} of {len(every)} pairs have no prompt of their own: they get {kind.prompt!r}, that of "
            f"the layout {chosen}{reason}; --prompt gives another"
        )
    if prompt is not None:
        sets = {name: [replace(pair, prompt=prompt) for pair in pairs] for name, pairs in sets.items()}
    return Dataset(chosen, sets)


@dataclass(frozen=True)
class _Layout:
    """How to recognise and read a layout, and its default prompt; ``sought`` describes it in messages."""

    prompt: str
    sought: str
    is_at: Callable[[Path], bool]
    read: Callable[[Path, str, Tell], dict[str, list[Pair]]]


def _recognised(source: Path) -> LayoutName:
    fitting = _fitting(source)
    if len(fitting) > 1:
        raise DatasetError(f"{source}: could be {' or '.join(fitting)}; choose with --layout")
    if fitting:
        return fitting[0]
    sought = "; ".join(f"{kind.sought} ({name})" for name, kind in _LAYOUTS.items())
    inside = sorted(path for path in source.iterdir() if path.is_dir())
    hints = [f"'{path.name}' in it looks like {_fitting(path)[0]}" for path in inside if _fitting(path)]
    found = ", ".join(path.name for path in inside[:8]) or "no folders"
    advice = "rename the folders to match, or give another one"
    if hints:
        advice = f"{' and '.join(hints[:3])}, give {'that' if len(hints) == 1 else 'one of them'}"
    raise DatasetError(f"{source}: no layout that is known. Looked for {sought}. Found {found}; {advice}")


def _fitting(source: Path) -> list[LayoutName]:
    """The layouts that fit ``source``; the two with ``images`` and ``masks`` only if no other fits."""
    special = [name for name in get_args(LayoutName) if name not in ("kvasir-seg", "plain")]
    fitting: list[LayoutName] = [name for name in special if _LAYOUTS[name].is_at(source)]
    if fitting or not _is_plain(source):
        return fitting
    return ["kvasir-seg" if _kvasir_sign(source) else "plain"]


def _kvasir_sign(source: Path) -> str | None:
    """What identifies ``source`` as Kvasir-SEG, as a phrase, or None."""
    if (source / _KVASIR_BOXES).is_file():
        return f"'{_KVASIR_BOXES}'"
    images = first_subfolder(source, IMAGE_FOLDERS)
    if images is not None and any(_KVASIR_STEM.fullmatch(path.stem) for path in images.iterdir()):
        return "the form of its file names"
    # The full name is compared, since Kvasir-Instrument and Kvasir-Capsule are other datasets.
    return "its folder's name" if source.resolve().name.casefold() in _KVASIR_NAMES else None


def _sign(source: Path, layout: LayoutName) -> str:
    """What identifies ``source`` as being in ``layout``, as a phrase."""
    return (_kvasir_sign(source) if layout == "kvasir-seg" else None) or "the names of its folders"


def _is_plain(source: Path) -> bool:
    return _holds_pairs(source) or bool(_split_folders(source))


def _read_plain(source: Path, prompt: str, tell: Tell) -> dict[str, list[Pair]]:
    if _holds_pairs(source):
        pairs = find_pairs(source, default_prompt=prompt, tell=tell)
        # A set that was divided is no dataset to divide by what its names may have begun with before.
        return {_WHOLE: pairs} if is_prepared(source.resolve()) else _split_by_stem(pairs, tell)
    return _read_split(_split_folders(source), prompt, tell)


def _read_split(folders: Mapping[str, Path], prompt: str, tell: Tell) -> dict[str, list[Pair]]:
    """The pairs of each folder by its name; a ``test`` folder with several sets gives ``test/<name>``."""
    sets: dict[str, list[Pair]] = {}
    for name, folder in folders.items():
        inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] not in "._"]
        parts = {path.name for path in inside} & {*IMAGE_FOLDERS, *MASK_FOLDERS}
        if name == "test" and inside and not parts:
            sets |= {
                f"test/{path.name}": find_pairs(path, default_prompt=prompt, tell=tell) for path in inside
            }
        else:
            sets[name] = find_pairs(folder, default_prompt=prompt, tell=tell)
    return sets


def _holds_pairs(path: Path) -> bool:
    if path.is_file() or (path / PROMPT_FILE).is_file():
        return True
    return all(first_subfolder(path, names) is not None for names in (IMAGE_FOLDERS, MASK_FOLDERS))


def _split_folders(source: Path) -> dict[str, Path]:
    found = {name: first_subfolder(source, spellings) for name, spellings in _SPLIT_FOLDERS.items()}
    return {name: folder for name, folder in found.items() if folder is not None}


def _split_by_stem(pairs: list[Pair], tell: Tell) -> dict[str, list[Pair]]:
    """The split by stems ``train_<...>``, ``validation_<...>`` and ``test_<...>``, if all stems have one."""
    sets: dict[str, list[Pair]] = {name: [] for name in _SPLIT_FOLDERS}
    told = [match[1] if (match := _SPLIT_STEM.match(pair.stem)) else None for pair in pairs]
    if None in told:
        if others := [name for name in told if name]:
            tell(
                f"the names of {len(others)} pairs tell their set (train_, validation_, test_) and those of "
                f"{len(pairs) - len(others)} do not: taken for no split"
            )
        return {_WHOLE: pairs}
    for pair, name in zip(pairs, told, strict=True):
        sets["validation" if name == "val" else str(name)].append(pair)
    return sets


def _pranet_folders(source: Path) -> dict[str, Path]:
    folders = {"train": source / "TrainDataset", "test": source / "TestDataset"}
    return {name: folder for name, folder in folders.items() if folder.is_dir()}


def _is_cvc(source: Path) -> bool:
    return (source / "Original").is_dir() and first_subfolder(source, _CVC_MASKS) is not None


def _read_cvc(source: Path, prompt: str, tell: Tell) -> dict[str, list[Pair]]:
    masks = first_subfolder(source, _CVC_MASKS)
    assert masks is not None  # _is_cvc found it
    return {_WHOLE: pairs_of_folders(source / "Original", masks, prompt, tell)}


def _isic(images: str, masks: str) -> _Layout:
    """The layout of an ISIC challenge; ``{}`` in folder names stands for Training, Validation or Test."""

    def folders(source: Path) -> dict[str, tuple[Path, Path]]:
        every = {
            name: (source / images.format(part), source / masks.format(part))
            for name, part in _ISIC_SETS.items()
        }
        return {name: both for name, both in every.items() if any(folder.is_dir() for folder in both)}

    def read(source: Path, prompt: str, tell: Tell) -> dict[str, list[Pair]]:
        found = folders(source)
        missing = [folder for both in found.values() for folder in both if not folder.is_dir()]
        if missing:
            raise DatasetError(
                f"{source}: the folder '{missing[0].name}' is missing; add it, or take its partner away"
            )
        return {name: pairs_of_folders(*both, prompt, tell) for name, both in found.items()}

    sought = f"'{images.format('Training')}' and '{masks.format('Training')}', and the same with Test"
    return _Layout(SKIN_LESIONS, sought, lambda source: bool(folders(source)), read)


_LAYOUTS: dict[LayoutName, _Layout] = {
    "pranet": _Layout(
        POLYPS,
        "'TrainDataset' with 'images' and 'masks', and 'TestDataset' with a folder of those for each set",
        lambda source: bool(_pranet_folders(source)),
        lambda source, prompt, tell: _read_split(_pranet_folders(source), prompt, tell),
    ),
    "isic2018": _isic("ISIC2018_Task1-2_{}_Input", "ISIC2018_Task1_{}_GroundTruth"),
    "isic2016": _isic("ISBI2016_ISIC_Part1_{}_Data", "ISBI2016_ISIC_Part1_{}_GroundTruth"),
    "cvc-clinicdb": _Layout(POLYPS, "'Original' and 'Ground Truth'", _is_cvc, _read_cvc),
    "kvasir-seg": _Layout(
        POLYPS,
        f"'images' and 'masks' with the names of Kvasir-SEG, '{_KVASIR_BOXES}', or its own folder's name",
        _is_plain,
        _read_plain,
    ),
    "plain": _Layout(
        ANYTHING,
        f"'images' and 'masks' or '{PROMPT_FILE}', alone or in 'train', 'validation' and 'test'",
        _is_plain,
        _read_plain,
    ),
}
