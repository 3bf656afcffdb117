"""The raw data format of nnU-Net v2: the content of a folder ``Dataset<number>_<name>``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator

from .layout import Record
from .png_pairs import PngPairs


class NnUNet(PngPairs):
    """``imagesTr/<stem>_0000.png`` (all of RGB in one file) and ``labelsTr/<stem>.png`` (0/1)."""

    name = "nnunet"
    image_file, mask_file = "imagesTr/{}_0000.png", "labelsTr/{}.png"
    foreground = 1

    def index_files(
        self, records: Callable[[], Iterable[Record]], read: Callable[[str], bytes]
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        description = {
            "channel_names": {"0": "R", "1": "G", "2": "B"},
            "labels": {"background": 0, "foreground": 1},
            "numTraining": sum(1 for _ in records()),
            "file_ending": ".png",
            "overwrite_image_reader_writer": "NaturalImage2DIO",
        }
        yield "dataset.json", iter([(json.dumps(description, indent=1) + "\n").encode()])
