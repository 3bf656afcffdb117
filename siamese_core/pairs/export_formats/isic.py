"""The names of the ISIC 2018 challenge, task 1."""

from __future__ import annotations

from .png_pairs import PngPairs


class Isic(PngPairs):
    """Images and masks (0/255) in the folders of the training set, masks with the suffix ``_segmentation``.

    Stems are kept, since names like ``ISIC_0000000`` would collide with real images. Images are PNG instead
    of the archive's JPEG, to be lossless.
    """

    name = "isic"
    image_file = "ISIC2018_Task1-2_Training_Input/{}.png"
    mask_file = "ISIC2018_Task1_Training_GroundTruth/{}_segmentation.png"
