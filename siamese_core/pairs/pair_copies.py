"""Copying pairs into a folder of their own, byte for byte where that keeps what is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..json_lines import json_objects, text_in
from ..masks.image_decoding import image_header
from .image_files import read_image
from .manifest import MANIFEST
from .pair_files import PROMPT_FILE, Pair
from .pair_writer import png_bytes


def copy_pairs(folder: Path, pairs: Sequence[Pair], manifest: Path | None) -> None:
    """Copy ``pairs`` byte for byte into images/ and masks/ of ``folder``, and write prompt.json.

    Grey images of more than 8 bits become 8-bit PNG as they are read: white is the brightest of a folder, and
    the copies of a part would have another one. Files are named by the pairs' stems, which must differ. The
    lines of these stems in ``manifest`` are copied unchanged.
    """
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    prompts = []
    for pair in tqdm(pairs, "copying", unit="pair", mininterval=1.0):
        is_deep = image_header(pair.image, "image").is_deep_grey
        source = f"masks/{pair.stem}{pair.mask.suffix}"
        target = f"images/{pair.stem}{'.png' if is_deep else pair.image.suffix}"
        if is_deep:
            (folder / target).write_bytes(png_bytes(read_image(pair.image)))
        else:
            shutil.copyfile(pair.image, folder / target)
        shutil.copyfile(pair.mask, folder / source)
        entry = {"source": source, "target": target, **({"prompt": pair.prompt} if pair.prompt else {})}
        prompts.append(json.dumps(entry, ensure_ascii=False) + "\n")
    (folder / PROMPT_FILE).write_bytes("".join(prompts).encode("utf-8"))
    if manifest is not None:
        stems = {pair.stem for pair in pairs}
        kept = (line.raw for line in json_objects(manifest) if text_in(line.value, "stem") in stems)
        with (folder / MANIFEST).open("wb") as file:
            file.writelines(raw.rstrip(b"\r\n") + b"\n" for raw in kept)
