"""Writing generated pairs to ``images/``, ``masks/``, ``prompt.json`` and ``manifest.jsonl`` of a folder."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..errors import UserError
from ..files import contained_path, write_bytes_atomic, write_text_atomic
from ..json_lines import json_objects, text_in
from ..masks.resizing import mask_to_uint8
from .manifest import MANIFEST, PairRecord

PROMPTS = "prompt.json"

ListedLines = tuple[bytes, bytes]
"""The lines of a pair in the list of prompts and in the manifest; empty where it is not listed."""


class WriteError(UserError):
    """Pairs cannot be written as asked; the message names the file and the fix."""


class PairWriter:
    """Adds pairs to one folder with atomic writes; a pair is listed once its files exist.

    Existing lists are continued. :meth:`holds` checks whether a name is taken, and :meth:`forget` removes
    pairs that will be replaced from the lists.
    """

    def __init__(self, root: Path) -> None:
        if root.exists() and not root.is_dir():
            raise WriteError(f"{root}: is a file; give a folder for the pairs")
        self.root = root
        for name in ("images", "masks"):
            (root / name).mkdir(parents=True, exist_ok=True)
        self._manifest, self._prompts = (contained_path(root, name) for name in (MANIFEST, PROMPTS))
        for path in (self._manifest, self._prompts):
            if not path.exists():
                write_text_atomic(path, "")
            with path.open("rb") as file:
                if file.read(1 << 10).lstrip().startswith(b"["):
                    raise WriteError(
                        f"{path}: a JSON array, to which no line can be added; save to another folder, or "
                        "write its entries one a line"
                    )

    def holds(self, stem: str) -> bool:
        """Whether an image or a mask with this stem exists."""
        return any(self._path(folder, stem).exists() for folder in ("images", "masks"))

    def forget(self, stems: Collection[str]) -> dict[str, ListedLines]:
        """Remove the pairs with these stems from both lists, but not their files; return their lines by stem.

        Raises JsonLinesError for a list that cannot be read.
        """
        lines = _drop_lines(self._manifest, "stem", {stem: stem for stem in stems})
        prompts = _drop_lines(self._prompts, "source", {f"masks/{stem}.png": stem for stem in stems})
        return {stem: (prompts.get(stem, b""), lines.get(stem, b"")) for stem in {**prompts, **lines}}

    def list_again(self, lines: Mapping[str, ListedLines]) -> None:
        """Put pairs that were forgotten back on the lists."""
        for path, at in ((self._prompts, 0), (self._manifest, 1)):
            if text := b"".join(listed[at] for listed in lines.values()):
                _append(path, text)

    def write(
        self,
        record: PairRecord,
        image: NDArray[np.uint8],
        mask: NDArray[np.bool_],
        text: Mapping[str, str] | None = None,
    ) -> None:
        """Write ``image`` (H, W, 3) uint8 and ``mask`` (H, W) bool as lossless PNG, the mask as 0/255.

        ``text`` goes into the image's file as PNG text. Raises WriteError when shapes or dtypes do not match
        or the stem is not a plain file name.
        """
        if image.shape != (*mask.shape, 3) or image.dtype != np.uint8 or mask.dtype != np.bool_:
            raise WriteError(
                f"{record.stem}: an image of {image.shape} {image.dtype} and a mask of {mask.shape} "
                f"{mask.dtype} are no pair; (H, W, 3) uint8 and (H, W) bool are needed"
            )
        write_bytes_atomic(self._path("images", record.stem), png_bytes(image, text))
        write_bytes_atomic(self._path("masks", record.stem), png_bytes(mask_to_uint8(mask)))
        prompt_line = {
            "source": f"masks/{record.stem}.png",
            "target": f"images/{record.stem}.png",
            # Without the key, readers fall back on their default prompt.
            **({"prompt": record.prompt} if record.prompt else {}),
        }
        _append_line(self._prompts, prompt_line)
        _append_line(self._manifest, asdict(record))

    def _path(self, folder: str, stem: str) -> Path:
        if Path(stem).name != stem or stem in ("", ".", ".."):
            raise WriteError(f"{stem!r} cannot be the name of a pair; it must be a plain file name")
        return contained_path(self.root, f"{folder}/{stem}.png")


def pair_stem(mask_stem: str, variant: int, variants: int) -> str:
    """Name of a pair: the mask's stem, followed by ``_<variant>`` unless ``variants`` is 1."""
    return mask_stem if variants == 1 else f"{mask_stem}_{variant}"


def png_bytes(pixels: NDArray[np.uint8], text: Mapping[str, str] | None = None) -> bytes:
    """``pixels``, (H, W) or (H, W, 3) uint8, as a PNG file with ``text`` chunks."""
    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def _drop_lines(path: Path, key: str, stem_of: Mapping[str, str]) -> dict[str, bytes]:
    """Drop the lines whose ``key`` has a value in ``stem_of``, and return them by its stem."""
    kept, dropped = [], {}
    for line in json_objects(path):
        raw = line.raw.rstrip(b"\r\n") + b"\n"
        if (stem := stem_of.get(text_in(line.value, key) or "")) is None:
            kept.append(raw)
        else:
            dropped[stem] = raw
    if dropped:
        write_bytes_atomic(path, b"".join(kept))
    return dropped


def _append_line(path: Path, record: Mapping[str, Any]) -> None:
    _append(path, (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8"))


def _append(path: Path, line: bytes) -> None:
    """Append lines to a list and sync it; on an error, such as a full disk, the list is restored."""
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":  # the list was edited by hand
                line = b"\n" + line
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(end)
            raise
