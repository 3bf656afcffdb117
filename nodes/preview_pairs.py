"""Preview Pairs: show images with the outlines of their masks on one sheet."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..siamese_core.contact_sheet import grid, outlined
from .host.mask_tensors import image_arrays, mask_arrays, require_pairs
from .host.refusals import refusing
from .host.schema import searchable


class PreviewPairs(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = io.Schema(
            node_id="SiamesePreviewPairs",
            display_name="Preview Pairs",
            category="Siamese-Diffusion",
            description="Show images with their mask outlines on one sheet.",
            inputs=[
                io.Image.Input("images", tooltip="The synthetic images."),
                io.Mask.Input("masks", tooltip="Their masks, one per image and of the same size."),
                io.Int.Input("columns", default=4, min=1, max=32, tooltip="Pairs per row."),
                io.Boolean.Input(
                    "outline",
                    default=True,
                    tooltip="Draw mask outlines; if off, the masks are shown below the images.",
                ),
            ],
            outputs=[io.Image.Output(id="sheet", display_name="sheet", tooltip="The sheet, as one image.")],
            is_output_node=True,
        )
        return searchable(schema, ("preview image", "overlay", "contact sheet"))

    @classmethod
    @refusing
    def execute(cls, images: Tensor, masks: Tensor, columns: int, outline: bool) -> io.NodeOutput:
        pictures, outlines = image_arrays(images), mask_arrays(masks)
        require_pairs(pictures, outlines)
        rows: list[list[Any]] = []
        for start in range(0, len(pictures), columns):
            chunk = slice(start, start + columns)
            pairs = list(zip(pictures[chunk], outlines[chunk], strict=True))
            if outline:
                rows.append([outlined(picture, mask) for picture, mask in pairs])
            else:
                rows += [
                    [picture for picture, _ in pairs],
                    [mask.astype(np.uint8) * 255 for _, mask in pairs],
                ]
        sheet = torch.from_numpy(grid(rows)).float()[None] / 255
        return io.NodeOutput(sheet, ui=ui.PreviewImage(sheet, cls=cls))
