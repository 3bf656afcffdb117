"""Save Pairs: write images and masks as a dataset below ComfyUI's output folder."""

from __future__ import annotations

import hashlib
from typing import get_args

import comfy.model_management
import comfy.utils
from comfy_api.latest import io
from torch import Tensor

from ..siamese_core.pairs.manifest import PairRecord
from ..siamese_core.pairs.pair_folder import IfExists, NewPair, add_pairs
from .host.folders import output_path
from .host.graph import graph_text, prompt_behind
from .host.mask_tensors import image_arrays, mask_arrays, names_of, require_pairs
from .host.notices import show
from .host.refusals import refusing
from .host.schema import searchable
from .host.sheets import SHOWN_PAIRS, preview, sheet_of


class SavePairs(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = io.Schema(
            node_id="SiameseSavePairs",
            display_name="Save Pairs",
            category="Siamese-Diffusion",
            description="Save images and masks as a labelled dataset: images/, masks/, prompt.json and "
            "manifest.jsonl in a folder inside ComfyUI's output folder. training.train can read it directly.",
            inputs=[
                io.Image.Input("images", tooltip="The synthetic images."),
                io.Mask.Input("masks", tooltip="Their masks, one per image and of the same size."),
                io.String.Input(
                    "folder", default="siamese_pairs", tooltip="Folder inside ComfyUI's output folder."
                ),
                io.Combo.Input(
                    "if_exists",
                    options=list(get_args(IfExists)),
                    default="number",
                    tooltip="If a pair with that name exists: give the new one a number, skip the new one, "
                    "or overwrite the old one.",
                ),
                io.String.Input(
                    "names",
                    optional=True,
                    force_input=True,
                    tooltip="Names of the pairs, one per line, from Load Masks or Random Mask Transform. If "
                    "not connected, pairs are named pair_00000 and so on.",
                ),
                io.String.Input(
                    "prompt",
                    optional=True,
                    default="",
                    multiline=True,
                    tooltip="The prompt written to prompt.json; if empty, that of the CLIP Text Encode node "
                    "that the images come from.",
                ),
            ],
            outputs=[
                io.String.Output(
                    id="saved_to", display_name="saved_to", tooltip="The folder that was written."
                )
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )
        return searchable(schema, ("save image", "save mask", "export"))

    @classmethod
    @refusing
    def execute(
        cls,
        images: Tensor,
        masks: Tensor,
        folder: str,
        if_exists: IfExists,
        names: str | None = None,
        prompt: str = "",
    ) -> io.NodeOutput:
        pictures, areas = image_arrays(images), mask_arrays(masks)
        require_pairs(pictures, areas)
        stems = names_of(names, len(pictures), "pair")
        root = output_path(folder)
        prompt = prompt or prompt_behind(cls.hidden, "images")
        pairs = [
            NewPair(_record(index, stem, mask.tobytes(), prompt), image, mask)
            for index, (stem, image, mask) in enumerate(zip(stems, pictures, areas, strict=True))
        ]
        progress = comfy.utils.ProgressBar(len(pairs))

        def on_pair() -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            progress.update(1)

        written = add_pairs(root, pairs, if_exists, text=graph_text(cls.hidden), on_pair=on_pair)
        report = show(
            f"{len(written)} of {len(pairs)} pairs written to output/{folder}"
            + (f", prompt: {prompt}" if prompt else "")
        )
        latest = list(zip(pictures, areas, strict=True))[-SHOWN_PAIRS:]
        return io.NodeOutput(str(root), ui={**preview(sheet_of(latest), cls), "text": (report,)})


def _record(index: int, stem: str, mask: bytes, prompt: str) -> PairRecord:
    return PairRecord(
        index=index,
        stem=stem,
        seed=None,
        mask_file=stem,
        mask_digest=hashlib.sha256(mask).hexdigest(),
        prompt=prompt,
        sampler={},
        checkpoint_digest="",
        run_id="",
    )
