"""The layouts in which a dataset can be written, one per module, and their common interface."""

from __future__ import annotations

from .coco import Coco
from .imagefolder import ImageFolder
from .isic import Isic
from .layout import FinishedPair, PairFormat, StoredFile
from .nnunet import NnUNet
from .pairs import Pairs
from .pranet import PraNet
from .webdataset import WebDataset

_ALL: tuple[PairFormat, ...] = (Pairs(), PraNet(), NnUNet(), Coco(), Isic(), ImageFolder(), WebDataset())

FORMATS: dict[str, PairFormat] = {kind.name: kind for kind in _ALL}

__all__ = ["FORMATS", "FinishedPair", "PairFormat", "StoredFile"]
