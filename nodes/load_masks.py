"""Load Masks: a folder of mask files as one batch."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import get_args

import comfy.model_management
import comfy.utils
from comfy_api.latest import io

from ..siamese_core.errors import UserError
from ..siamese_core.masks.mask_files import MaskError, ResizeMode, discover_masks, read_mask, resize_mask
from .host.folders import ROOTS_VARIABLE, input_path
from .host.mask_tensors import mask_batch

EXAMPLES = "(bundled examples)"
_EXAMPLES_PATH = Path(__file__).parents[1] / "siamese_core" / "assets" / "example_masks"


class LoadMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SiameseLoadMasks",
            display_name="Load Masks",
            category="Siamese-Diffusion",
            description="Read the mask files of a folder, in natural order, as one batch of equal size. "
            "Reads again when the folder changes.",
            inputs=[
                io.String.Input(
                    "folder",
                    default=EXAMPLES,
                    tooltip="Folder below ComfyUI's input folder; a masks/ folder inside it is used when "
                    f"there is one. Elsewhere only below the folders in the variable {ROOTS_VARIABLE}.",
                ),
                io.Int.Input("start", default=0, min=0, max=10_000_000, tooltip="Masks to skip first."),
                io.Int.Input(
                    "count", default=0, min=0, max=10_000_000, tooltip="Masks to read; 0 reads all the rest."
                ),
                io.Int.Input(
                    "threshold",
                    default=127,
                    min=0,
                    max=254,
                    tooltip="A pixel is foreground above this value (0..255). Files that hold only 0 and 1 "
                    "are understood too. 0 takes every class of a label map.",
                ),
                io.Int.Input(
                    "width",
                    default=384,
                    min=0,
                    max=4096,
                    step=64,
                    tooltip="Width in pixels, a multiple of 64: the paper's 384, or 128 for the bundled "
                    "model. 0 keeps the files' own.",
                ),
                io.Int.Input(
                    "height",
                    default=384,
                    min=0,
                    max=4096,
                    step=64,
                    tooltip="Height in pixels, a multiple of 64; 0 keeps the files' own.",
                ),
                io.Combo.Input(
                    "resize_mode",
                    options=list(get_args(ResizeMode)),
                    default="stretch",
                    tooltip="stretch ignores the aspect ratio (the paper's way), crop cuts the centre, pad "
                    "adds background.",
                ),
                io.Boolean.Input("invert", default=False, tooltip="Swap foreground and background."),
                io.Int.Input(
                    "label",
                    default=0,
                    min=0,
                    max=65535,
                    tooltip="The class of a label map that counts as foreground; 0 goes by the threshold.",
                ),
            ],
            outputs=[
                io.Mask.Output(tooltip="The masks, strictly 0 or 1."),
                io.String.Output(
                    id="names", display_name="names", tooltip="Names without extension, one a line."
                ),
                io.Int.Output(id="total", display_name="total", tooltip="Masks in the folder."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, **_: object) -> str:
        try:
            files = discover_masks(mask_folder(folder))
            stats = [file.stat() for file in files]
        except (UserError, OSError) as error:
            return f"unreadable: {error}"
        facts = [(file.name, stat.st_size, stat.st_mtime_ns) for file, stat in zip(files, stats, strict=True)]
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    @classmethod
    def execute(
        cls,
        folder: str,
        start: int,
        count: int,
        threshold: int,
        width: int,
        height: int,
        resize_mode: ResizeMode,
        invert: bool,
        label: int,
    ) -> io.NodeOutput:
        files = discover_masks(mask_folder(folder))
        total = len(files)
        if start >= total or start + count > total:
            wanted = f"number {start}" if start >= total else f"{count} from number {start}"
            raise MaskError(
                f"The folder '{folder}' holds {total} masks, so there is no {wanted}; lower start or count."
            )
        chosen = files[start : start + count] if count else files[start:]
        progress = comfy.utils.ProgressBar(len(chosen))
        masks, notes = [], set()
        for path in chosen:
            comfy.model_management.throw_exception_if_processing_interrupted()
            reading = read_mask(path, threshold=threshold, label=label or None)
            mask = ~reading.mask if invert else reading.mask
            size = (height or mask.shape[0], width or mask.shape[1])
            masks.append(resize_mask(mask, size, resize_mode))
            if masks[-1].shape != masks[0].shape:
                raise MaskError(
                    f"'{chosen[0].name}' and '{path.name}' differ in size ({_size(masks[0].shape)} and "
                    f"{_size(masks[-1].shape)}); set width and height."
                )
            if reading.note and reading.note not in notes:
                notes.add(reading.note)
                logging.info("Siamese-Diffusion: %s: %s", path.name, reading.note)
            progress.update(1)
        names = "\n".join(path.stem for path in chosen)
        return io.NodeOutput(mask_batch(masks), names, total)


def mask_folder(text: str) -> Path:
    return _EXAMPLES_PATH if text.strip() == EXAMPLES else input_path(text)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
