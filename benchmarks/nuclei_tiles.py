"""Make the data that the bundled models were trained on, from tiles of the 2018 Data Science Bowl's nuclei.

    python -m benchmarks.nuclei_tiles --tiles DIR --output runs/nuclei

DIR holds ``images/`` and ``masks/`` of 256 px tiles, named by image and tile (``<image>_<tile>.png``). Images
are split into a pool and a test set, in the same proportion for each kind of microscopy; tiles are cut into
128 px squares without rescaling. Output: ``unlabelled/`` and ``unlabelled_unet/`` (images of the pool, for
``make_base``), ``labelled/`` (pairs of the pool, for ``train``) and ``test/`` (pairs that no model has seen).

Rare kinds are included in several orientations, so that a model does not forget them; microscopy images have
no preferred orientation.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.preparation.varied_copies import turned

SIDE = 128
PROMPTS = {
    "fluorescence": "a fluorescence image of nuclei",
    "violet": "a violet stained tissue section with nuclei",
    "pale": "stained nuclei on a pale background",
    "brightfield": "a brightfield image of cells with nuclei",
}
TEST_SHARE = 140 / 400
UNLABELLED_ORIENTATIONS = {"fluorescence": 1, "violet": 3, "pale": 4, "brightfield": 4}
LABELLED_ORIENTATIONS = {"fluorescence": 1, "violet": 3, "pale": 5, "brightfield": 6}
UNET_IMAGES, FLUORESCENCE_PAIRS = 2800, 560
_LEAST_FOREGROUND = 0.004

Square = tuple[str, int, int, int]
"""Tile, row, column and orientation (0..7) of a square."""


def kind_of(image: NDArray[np.uint8]) -> str:
    """The kind of microscopy of ``image`` (H, W, 3) uint8, recognised by its colours."""
    values = image.astype(float) / 255
    saturation = values.max(-1) - values.min(-1)
    background = np.median(values.reshape(-1, 3), 0)
    if values.mean() < 0.45 and saturation.mean() < 0.05:
        return "fluorescence"
    if np.quantile(saturation, 0.99) < 0.06:
        return "brightfield"
    return "pale" if background.max() - background.min() < 0.12 else "violet"


def split(kinds: dict[str, str]) -> tuple[list[str], list[str]]:
    """Split the images into pool and test by the kinds of their tiles; no image is in both."""
    by_image = defaultdict(list)
    for tile, kind in kinds.items():
        by_image[tile.split("_")[0]].append(kind)
    most = {image: Counter(found).most_common(1)[0][0] for image, found in by_image.items()}
    pool: list[str] = []
    test: list[str] = []
    for number, kind in enumerate(sorted(PROMPTS)):
        images = sorted(image for image, found in most.items() if found == kind)
        random.Random(100 + number).shuffle(images)
        count = round(len(images) * TEST_SHARE)
        test += images[:count]
        pool += images[count:]
    return sorted(pool), sorted(test)


class Tiles:
    """The tiles of a folder, with their kinds, and squares cut from them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kinds = {path.stem: kind_of(self._read("images", path.stem)) for path in self._paths()}

    def of(self, images: Iterable[str]) -> list[str]:
        """The tiles of ``images``."""
        wanted = set(images)
        return [tile for tile in self.kinds if tile.split("_")[0] in wanted]

    def squares(
        self, tiles: Sequence[str], stride: int, orientations: dict[str, int] | None, seed: int, nuclei: bool
    ) -> Iterator[Square]:
        """Squares of ``tiles`` every ``stride`` pixels; with ``nuclei``, only those that contain some."""
        rng = random.Random(seed)
        for tile in tiles:
            mask = self._read("masks", tile) if nuclei else None
            rows, columns = self._read("images", tile).shape[:2]
            for row in range(0, rows - SIDE + 1, stride):
                for column in range(0, columns - SIDE + 1, stride):
                    if mask is not None and _foreground(mask, row, column).mean() < _LEAST_FOREGROUND:
                        continue
                    count = orientations[self.kinds[tile]] if orientations else 0
                    for orientation in rng.sample(range(8), count) if count else [0]:
                        yield tile, row, column, orientation

    def write(self, output: Path, squares: Iterable[Square], with_masks: bool) -> None:
        """Write ``squares`` as images, or as pairs ``with_masks``, with the prompts of their kinds."""
        lines = []
        for square in squares:
            tile, row, column, orientation = square
            name = "{}_{}_{}_{}.png".format(*square)
            image = self._read("images", tile)[row : row + SIDE, column : column + SIDE]
            _save(output / "images" / name, turned(image, orientation))
            source = "images"
            if with_masks:
                source = "masks"
                levels = _foreground(self._read("masks", tile), row, column).astype(np.uint8) * np.uint8(255)
                _save(output / "masks" / name, turned(levels, orientation))
            prompt = PROMPTS[self.kinds[tile]]
            lines.append({"source": f"{source}/{name}", "target": f"images/{name}", "prompt": prompt})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (output / "prompt.json").write_text(text, encoding="utf-8")

    def _paths(self) -> list[Path]:
        return sorted((self.folder / "images").glob("*.png"))

    def _read(self, kind: str, tile: str) -> NDArray[np.uint8]:
        with Image.open(self.folder / kind / f"{tile}.png") as file:
            return np.asarray(file.convert("RGB" if kind == "images" else "L"))


def _foreground(mask: NDArray[np.uint8], row: int, column: int) -> NDArray[np.bool_]:
    return mask[row : row + SIDE, column : column + SIDE] > 127


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiles", type=Path, required=True, help="folder with images/ and masks/")
    parser.add_argument("--output", type=Path, required=True, help="folder for the data, new or empty")
    args = parser.parse_args()
    if args.output.exists() and any(args.output.iterdir()):
        parser.error(f"{args.output}: not empty; give a new folder")
    tiles = Tiles(args.tiles)
    pool, test = split(tiles.kinds)
    unlabelled = list(tiles.squares(tiles.of(pool), SIDE // 2, UNLABELLED_ORIENTATIONS, 5, nuclei=False))
    tiles.write(args.output / "unlabelled", unlabelled, with_masks=False)
    some = sorted(random.Random(3).sample(range(len(unlabelled)), min(UNET_IMAGES, len(unlabelled))))
    tiles.write(args.output / "unlabelled_unet", [unlabelled[place] for place in some], with_masks=False)
    labelled = list(tiles.squares(tiles.of(pool), SIDE, LABELLED_ORIENTATIONS, 1, nuclei=True))
    common = [square for square in labelled if tiles.kinds[square[0]] == "fluorescence"]
    rare = [square for square in labelled if tiles.kinds[square[0]] != "fluorescence"]
    chosen = random.Random(4).sample(common, min(FLUORESCENCE_PAIRS, len(common)))
    tiles.write(args.output / "labelled", sorted([*chosen, *rare]), with_masks=True)
    tiles.write(
        args.output / "test", tiles.squares(tiles.of(test), SIDE, None, 1, nuclei=True), with_masks=True
    )
    print(f"{len(pool)} images in the pool, {len(test)} in the test split: {args.output}")


if __name__ == "__main__":
    main()
