"""The layout of PraNet, also read by Polyp-PVT, SANet and most other polyp networks."""

from __future__ import annotations

from .png_pairs import PngPairs


class PraNet(PngPairs):
    """``TrainDataset/images/<stem>.png`` and ``TrainDataset/masks/<stem>.png`` (0/255)."""

    name = "pranet"
    image_file, mask_file = "TrainDataset/images/{}.png", "TrainDataset/masks/{}.png"
