"""The names of the ISIC 2018 challenge, task 1."""

from __future__ import annotations

from .png_pairs import PngPairs


class Isic(PngPairs):
    """Images and masks (0/255) in the folders of its training set, ``_segmentation`` after a mask's stem.

    Stems stay what they are: numbers in the style of ``ISIC_0000000`` would be those of real images.
    Images are PNG, where the archive's are JPEG, which cannot keep every pixel.
    """

    name = "isic"
    image_file = "ISIC2018_Task1-2_Training_Input/{}.png"
    mask_file = "ISIC2018_Task1_Training_GroundTruth/{}_segmentation.png"
