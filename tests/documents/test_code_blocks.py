"""Every command and code block of README and docs/ runs as it is printed, on small inputs."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.commands import run_here
from tests.support.documents import DOCUMENTS, ROOT, Block, blocks
from tests.support.phantoms.phantom import write_phantoms

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SIDE = 64

# What a document leaves at its default is made small here: later flags win.
SMALL: dict[str, str] = {
    "demo": "--pairs 4 --held-out 2 --random-masks 0 --steps 2 --sampling-steps 2 --segmenter-steps 2",
    "make_base": f"--resolution {SIDE} --vae-steps 1 --unet-steps 1 --unet-widths 32 32 64 64 "
    "--vae-widths 32 32 32 32 --vae-batch-size 2 --vae-crop 32 --unet-batch-size 2",
    "train": f"--steps 2 --resolution {SIDE} --batch-size 2 --sample-every 0",
    "generate": "--steps 2 --batch-size 2",
    "segment": f"--steps 2 --batch-size 2 --resolution {SIDE} --seeds 2",
    "evaluate": f"--bootstrap 100 --segmenter-steps 2 --segmenter-resolution {SIDE}",
    "select": f"--steps 2 --batch-size 2 --resolution {SIDE} --neighbours 1 --min-dice 0 --max-distance 1000",
}

ALL = [block for document in DOCUMENTS for block in blocks(document)]
MOST_LEFT_OUT = 16
"""Blocks that no test runs; each has its reason in the document."""


def test_few_blocks_are_left_out_and_each_says_why() -> None:
    left_out = [block for block in ALL if block.reason]

    assert len(left_out) <= MOST_LEFT_OUT
    assert all(len(str(block.reason)) > 10 for block in left_out)


def test_every_target_of_make_that_a_document_names_is_there() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    named = {words[1] for block in ALL for words in shell_commands(block) if words[0] == "make"}

    assert named <= targets


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_blocks_of_a_document_run_one_after_the_other(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, single_base: Path, full_model: Path
) -> None:
    todo = [block for block in blocks(document) if not block.reason]
    if not any(words[0] != "make" for block in todo for words in shell_commands(block)):
        pytest.skip("no command but make's, which the whole suite runs")
    users_folder(tmp_path, single_base, full_model)
    if not any("--output my_pairs" in block.text for block in todo):
        write_phantoms(tmp_path / "my_pairs/train", 3, size=SIDE)
        write_phantoms(tmp_path / "my_pairs/test", 3, size=SIDE, first=10)
    first_use = next((block.text for block in todo if "my_synthetic" in block.text), "")
    if "--output my_synthetic" not in first_use:
        write_phantoms(tmp_path / "my_synthetic", 12, size=SIDE, first=20)
    monkeypatch.chdir(tmp_path)

    for block in todo:
        for words in shell_commands(block):
            if words[0] != "make":
                run(block, words)


def shell_commands(block: Block) -> list[list[str]]:
    if block.reason:
        return []
    if block.language == "toml":
        tomllib.loads(block.text)
        return []
    assert block.language == "sh", f"{block.place}: only shell blocks are run; give the reason in a mark"
    return block.commands()


def run(block: Block, words: list[str]) -> None:
    """Run ``python -m training.COMMAND ...`` or ``python -m training COMMAND ...`` in this process."""
    assert words[:2] == ["python", "-m"], f"{block.place}: cannot be run here: {words}"
    module, arguments = words[2], words[3:]
    name = module.removeprefix("training.") if module != "training" else arguments.pop(0)
    small = SMALL.get(name, "").split()
    if name == "segment" and "--network" not in arguments:
        small += ["--network", "small-unet"]
    if "--then-real" in arguments:
        small += ["--then-real", "1"]  # of two --steps
    command = importlib.import_module(f"training.{name.replace('-', '_')}").main
    outcome = run_here(command, *arguments, *small)
    assert outcome.status == 0, f"{block.place}: {outcome.errors}"


def users_folder(root: Path, base: Path, model: Path) -> None:
    """The files of a user in a checkout, under the names that the documents give them."""
    (root / "siamese_core").symlink_to(ROOT / "siamese_core")
    write_phantoms(root / "my_data", 9, size=SIDE)
    write_phantoms(root / "my_mask_only", 6, size=SIDE, first=40)
    shutil.copytree(root / "my_data/images", root / "my_images")
    shutil.copytree(root / "my_data/images", root / "my_frames")
    (root / "my_masks").mkdir()
    for number, mask in enumerate(sorted((root / "my_data/masks").iterdir())[:4]):
        shutil.copyfile(mask, root / f"my_masks/case_{number}.png")
    shutil.copyfile(base, root / "sd15.safetensors")
    shutil.copyfile(model, root / "model.safetensors")
