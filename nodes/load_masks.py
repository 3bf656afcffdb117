"""Load Masks: read the mask files of a folder as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import comfy.model_management
import comfy.utils
import numpy as np
from comfy_api.latest import io
from numpy.typing import NDArray

from ..siamese_core import shipped
from ..siamese_core.errors import UserError
from ..siamese_core.masks.folder_contents import left_out
from ..siamese_core.masks.foreground_rule import PLAIN_MASKS, ForegroundRule
from ..siamese_core.masks.image_decoding import MaskError
from ..siamese_core.masks.mask_files import discover_masks
from ..siamese_core.masks.plausibility import MaskSurvey
from ..siamese_core.masks.resizing import ResizeMode, resize_mask
from ..siamese_core.pairs.written_masks import is_written_mask, read_mask_by_origin
from .host.file_state import files_fingerprint, never_equal
from .host.folders import ROOTS_VARIABLE, input_path, is_nameless
from .host.mask_tensors import mask_batch
from .host.notices import show, warn
from .host.own_sampling import chosen_side
from .host.refusals import refusing
from .host.schema import searchable

EXAMPLES = "(bundled examples)"


class LoadMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = io.Schema(
            node_id="SiameseLoadMasks",
            display_name="Load Masks",
            category="Siamese-Diffusion",
            description="Load the mask files of a folder as one batch of equal size, in natural order. "
            "Reloads when the folder changes.",
            inputs=[
                io.String.Input(
                    "folder",
                    default=EXAMPLES,
                    tooltip="Folder inside ComfyUI's input folder; if it contains masks/, that is used. "
                    "Folders elsewhere are allowed only inside those listed in the environment variable "
                    f"{ROOTS_VARIABLE}.",
                ),
                io.Int.Input("start", default=0, min=0, max=10_000_000, tooltip="Number of masks to skip."),
                io.Int.Input(
                    "count",
                    default=0,
                    min=0,
                    max=10_000_000,
                    tooltip="Number of masks to load; 0 loads all remaining ones.",
                ),
                io.Int.Input(
                    "threshold",
                    default=127,
                    min=0,
                    max=254,
                    tooltip="Pixels above this value (0..255) are foreground. Files that contain only 0 and "
                    "1 are recognised too. 0 makes every class of a label map foreground.",
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=4096,
                    step=64,
                    tooltip="Width in pixels, a multiple of 64. 0: the size the connected model was trained "
                    "at, or the files' own size if no model is connected.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=4096,
                    step=64,
                    tooltip="Height in pixels, a multiple of 64; 0 works as for width.",
                ),
                io.Combo.Input(
                    "resize_mode",
                    options=list(get_args(ResizeMode)),
                    default="stretch",
                    tooltip="stretch ignores the aspect ratio (as in the paper), crop keeps the centre, pad "
                    "adds background.",
                ),
                io.Boolean.Input("invert", default=False, tooltip="Swap foreground and background."),
                io.Int.Input(
                    "label",
                    default=0,
                    min=0,
                    max=65535,
                    tooltip="The class of a label map that counts as foreground; 0 uses the threshold.",
                ),
                io.Model.Input(
                    "model", optional=True, tooltip="A width or height of 0 means this model's training size."
                ),
            ],
            outputs=[
                io.Mask.Output(tooltip="The masks, strictly 0 or 1."),
                io.String.Output(
                    id="names", display_name="names", tooltip="File names without extension, one per line."
                ),
                io.Int.Output(id="total", display_name="total", tooltip="Number of masks in the folder."),
            ],
        )
        return searchable(schema, ("load mask", "folder", "directory", "batch"), rare=("threshold", "label"))

    @classmethod
    def fingerprint_inputs(
        cls,
        folder: str | None = None,
        threshold: int | None = None,
        invert: bool | None = None,
        label: int | None = None,
        **_: object,
    ) -> str | float:
        if folder is None:  # it comes from another node; the host does not pass linked values here
            return never_equal()
        try:
            files = discover_masks(mask_folder(folder))
            found = files_fingerprint(files)
            if (threshold, label or None, bool(invert)) == (PLAIN_MASKS.threshold, None, False):
                return found
            # Lists beside the masks tell which of them are read in this way.
            return f"{found} {[is_written_mask(file) for file in files]}"
        except (UserError, OSError) as error:
            return f"unreadable: {error}"

    @classmethod
    @refusing
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
        model: Any = None,
    ) -> io.NodeOutput:
        if model is not None:
            height, width = chosen_side(model, height), chosen_side(model, width)
        place = mask_folder(folder)
        files = discover_masks(place)
        total = len(files)
        if start >= total or start + count > total:
            wanted = f"number {start}" if start >= total else f"{count} from number {start}"
            raise MaskError(
                f"The folder '{folder}' holds {total} masks, so there is no {wanted}; lower start or count."
            )
        chosen = files[start : start + count] if count else files[start:]
        progress = comfy.utils.ProgressBar(len(chosen))
        masks: list[NDArray[np.bool_]] = []
        rule = ForegroundRule(threshold, label or None, invert=invert)
        survey = MaskSurvey(rule, (height, width) if height and width else None, resize_mode)
        for path in chosen:
            comfy.model_management.throw_exception_if_processing_interrupted()
            reading = read_mask_by_origin(path, rule)
            survey.add(path, reading)
            mask = reading.mask
            size = (height or mask.shape[0], width or mask.shape[1])
            masks.append(resize_mask(mask, size, resize_mode))
            if masks[-1].shape != masks[0].shape:
                raise MaskError(
                    f"'{chosen[0].name}' and '{path.name}' differ in size ({_size(masks[0].shape)} and "
                    f"{_size(masks[-1].shape)}); set width and height, or connect the model."
                )
            progress.update(1)
        survey.refuse_implausible(needs_foreground=False)
        warnings = [*unread_in(place, files), *survey.notes()]
        warn(warnings)
        show(f"{len(masks)} of {total} masks, {_size(masks[0].shape)} pixels", warnings)
        names = "\n".join(path.stem for path in chosen)
        return io.NodeOutput(mask_batch(masks), names, total)


def unread_in(place: Path, files: Sequence[Path]) -> list[str]:
    """What lies beside the mask ``files`` found at ``place`` and may be meant as one, but is not read."""
    if not place.is_dir():
        return []  # one mask file was given, and those beside it are not meant
    folder = files[0].parent
    return [f"not read in '{folder.name}': {phrase}" for phrase in left_out(folder)]


def mask_folder(text: str) -> Path:
    """The folder named by a widget's ``text``. Raises UserError when it lies outside the allowed folders.

    An empty name is refused, too, because it would mean the whole input folder.
    """
    if text.strip() == EXAMPLES:
        return shipped.EXAMPLE_MASKS
    if is_nameless(text):
        raise UserError(
            "The folder of masks has no name; give that of a folder in ComfyUI's input folder, or "
            f"'{EXAMPLES}'."
        )
    return input_path(text)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
