"""Folders in any disorder: files lost, renamed, damaged, links in their place; commands say what is wrong."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from siamese_core.masks.foreground_rule import PLAIN_MASKS
from siamese_core.masks.mask_files import discover_masks
from tests.support.commands import run_here
from tests.support.datasets.dataset_trees import isic2018, kvasir, plain, pranet
from tests.support.fuzzing import inputs, refusal, rounds
from training import export, prepare
from training.command_line.options import OptionError
from training.evaluation.metrics.image_sets import check_images, find_images
from training.preparation.dataset_layouts import read_dataset

NAMES = (
    "x.png",
    ".hidden.png",
    "a b.PNG",
    "train_1.png",
    "Größe.png",
    "x.png.png",
    "prompt.json",
    "x_mask.png",
    "x" * 250,
)


def disorder(root: Path, noise: random.Random) -> None:
    """Change one thing in the tree ``root``."""
    everything = sorted(root.rglob("*"))
    path = noise.choice([one for one in everything if one.is_file()] or everything)
    kind = noise.randrange(9)
    other = path.with_name(noise.choice(NAMES))
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.rename(other)
    elif kind == 2:
        path.unlink()
        path.mkdir()
    elif kind == 3:
        path.unlink()
        path.symlink_to(noise.choice(("/nowhere", path.name, "..", "/dev/zero", str(root))))
    elif kind == 4:
        path.unlink()
        os.mkfifo(path)
    elif kind == 5:
        other.write_bytes(path.read_bytes())
    elif kind == 6:
        path.write_bytes(b"")
    elif kind == 7:
        (data,) = inputs([path.read_bytes()], 1)
        path.write_bytes(data)
    else:
        folder = noise.choice([one for one in everything if one.is_dir()])
        target = folder.with_name(noise.choice(("images", "masks", "TrainDataset", "train", "Original", "x")))
        if not target.exists():
            folder.rename(target)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("trees")
    kinds = (kvasir, pranet, isic2018, plain, lambda root: plain(root, prompt_file=True))
    return [make(folder / f"tree{number}") for number, make in enumerate(kinds)]


def check_every_image(root: Path) -> None:
    check_images(find_images(root), PLAIN_MASKS, skip_corrupt=True)


@pytest.mark.skipif(os.name == "nt", reason="needs FIFOs and links")
def test_readers_of_folders_in_disorder(trees: list[Path], tmp_path: Path) -> None:
    for number in rounds(60):
        noise = random.Random(number)
        root = tmp_path / f"tree{number}"
        shutil.copytree(trees[number % len(trees)], root)
        for _ in range(noise.choice((1, 1, 2, 4))):
            disorder(root, noise)
        for folder in (root, *(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())):
            for read in (read_dataset, discover_masks, find_images):
                refusal(lambda read=read, folder=folder: read(folder), str(tmp_path))
        refusal(lambda root=root: check_every_image(root), str(root))
        shutil.rmtree(root)


@pytest.mark.skipif(os.name == "nt", reason="needs FIFOs and links")
@pytest.mark.parametrize("command", ["prepare", "export"])
def test_commands_on_folders_in_disorder(trees: list[Path], tmp_path: Path, command: str) -> None:
    flags = ("--format", "coco") if command == "export" else ("--split", "1:1:1")
    main = export.main if command == "export" else prepare.main
    out = tmp_path / "out"
    for number in rounds(40):
        noise = random.Random(1000 + number)
        root = tmp_path / f"tree{number}"
        shutil.copytree(trees[number % len(trees)], root)
        for _ in range(noise.choice((1, 1, 2, 4))):
            disorder(root, noise)

        def run(root: Path = root) -> None:
            outcome = run_here(main, root, "--output", out, *flags)
            if outcome.status != 0:
                raise OptionError(outcome.refusal)  # fails for a traceback

        message = refusal(run, str(root), "--", "Lists", "mask", below=tmp_path)
        assert out.exists() == (message is None)
        assert {path.name for path in tmp_path.iterdir()} <= {root.name, "out"}
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(root)
