"""The layouts in which a dataset is written, one a module, and what they have in common."""

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
