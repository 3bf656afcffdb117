"""Small stand-ins for published datasets: their folders, file names and file types, filled with phantoms."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from tests.support.phantoms.phantom import write_phantoms

SIDE = 64


def fill(images: Path, masks: Path, names: Sequence[tuple[str, str]], seed: int = 0) -> None:
    """Write a phantom for every (image name, mask name), each in the format of its extension."""
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        phantoms = Path(scratch) / "phantoms"
        write_phantoms(phantoms, len(names), seed=seed, size=SIDE)
        for place, both in enumerate(names):
            for kind, folder, name in zip(("images", "masks"), (images, masks), both, strict=True):
                source = phantoms / kind / f"phantom_{place:05d}.png"
                if name.endswith(".png"):
                    shutil.copyfile(source, folder / name)
                else:
                    with Image.open(source) as image:
                        image.save(folder / name, **({"quality": 95} if name.endswith(".jpg") else {}))


def plain(root: Path, count: int = 5, seed: int = 0, prompt_file: bool = False) -> Path:
    """``images`` and ``masks`` as the phantoms come, with or without their ``prompt.json``."""
    write_phantoms(root, count, seed=seed, size=SIDE)
    if not prompt_file:
        (root / "prompt.json").unlink()
    return root


def plain_split(root: Path) -> Path:
    """``train``, ``val`` and ``test``, whose stems repeat, each filled with phantoms of its own."""
    for seed, (name, count) in enumerate({"train": 4, "val": 2, "test": 3}.items()):
        plain(root / name, count, seed)
    return root


def kvasir(root: Path) -> Path:
    """Kvasir-SEG: JPEG images and JPEG masks under the same names, and the boxes."""
    names = [f"cju0qkwl35piu0993l0dewe{k:02d}.jpg" for k in range(5)]
    fill(root / "images", root / "masks", [(name, name) for name in names])
    (root / "kavsir_bboxes.json").write_text(json.dumps({}), encoding="utf-8")
    return root


def cvc(root: Path) -> Path:
    """CVC-ClinicDB: numbered TIFF files."""
    fill(root / "Original", root / "Ground Truth", [(f"{k}.tif", f"{k}.tif") for k in range(1, 6)])
    return root


def pranet(root: Path) -> Path:
    """PraNet's sets; one of the test sets in the folder names of some copies, stems shared by sets."""

    def png(count: int) -> list[tuple[str, str]]:
        return [(f"{k}.png", f"{k}.png") for k in range(1, count + 1)]

    train, test = root / "TrainDataset", root / "TestDataset"
    fill(train / "image", train / "mask", png(4), seed=1)
    fill(test / "CVC-300" / "images", test / "CVC-300" / "masks", png(2), seed=2)
    fill(test / "Kvasir" / "images", test / "Kvasir" / "masks", png(3), seed=3)
    return root


def isic2016(root: Path) -> Path:
    """ISIC 2016, part 1: JPEG images, masks with a suffix that begins with a capital."""
    _isic(root, "ISBI2016_ISIC_Part1_{}_Data", "ISBI2016_ISIC_Part1_{}_GroundTruth", "_Segmentation")
    return root


def isic2018(root: Path) -> Path:
    """ISIC 2018, task 1, with the licence files of its archives."""
    images, masks = "ISIC2018_Task1-2_{}_Input", "ISIC2018_Task1_{}_GroundTruth"
    _isic(root, images, masks, "_segmentation", validation=2, test=3)
    for folder in root.glob("ISIC2018_*"):
        (folder / "LICENSE.txt").write_text("CC-0", encoding="utf-8")
    return root


def _isic(root: Path, images: str, masks: str, suffix: str, validation: int = 0, test: int = 2) -> None:
    first = 0
    for seed, (part, count) in enumerate({"Training": 4, "Validation": validation, "Test": test}.items()):
        stems = [f"ISIC_{first + k:07d}" for k in range(count)]
        first += count
        if count:
            names = [(f"{stem}.jpg", f"{stem}{suffix}.png") for stem in stems]
            fill(root / images.format(part), root / masks.format(part), names, seed)
