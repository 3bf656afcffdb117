"""Random Mask Transform: make many masks from few by random transforms."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_management
import comfy.utils
from comfy_api.latest import io
from torch import Tensor

from ..siamese_core.masks.random_transforms import BEYOND, FLIPS, TransformSettings, expand_masks
from ..siamese_core.pairs.pair_writer import pair_stem
from .host.mask_tensors import mask_arrays, mask_batch, names_of
from .host.refusals import refusing
from .host.schema import searchable

TRANSFORM = io.Custom("SIAMESE_TRANSFORM")
"""The type of a link that carries a :class:`RandomTransform`."""

_DEFAULTS = TransformSettings()


@dataclass(frozen=True)
class RandomTransform:
    """Settings for a node that transforms masks itself; ``has_union``: a union input is connected."""

    settings: TransformSettings
    seed: int
    has_union: bool


class RandomMaskTransform(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = io.Schema(
            node_id="SiameseRandomMaskTransform",
            display_name="Random Mask Transform",
            category="Siamese-Diffusion",
            description="Make new masks by randomly scaling, moving, rotating and bending existing ones. "
            "Each result depends only on the seed, its source mask and its index, and respects the limits "
            "below.",
            inputs=[
                io.Mask.Input("masks", tooltip="The masks to start from."),
                io.Int.Input("variants", default=4, min=1, max=10_000, tooltip="New masks per mask."),
                io.Int.Input(
                    "total",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="Total number of new masks, spread evenly over the source masks; 0 uses "
                    "variants instead.",
                ),
                io.Int.Input(
                    "seed",
                    default=42,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of all random transforms.",
                ),
                _number("scale_min", _DEFAULTS.scale[0], 0.1, 10, "Minimum scale factor."),
                _number("scale_max", _DEFAULTS.scale[1], 0.1, 10, "Maximum scale factor."),
                _number("translate", _DEFAULTS.translate, 0, 1, "Maximum shift, as a fraction of the side."),
                _number(
                    "rotate",
                    _DEFAULTS.rotate,
                    0,
                    180,
                    "Maximum rotation in either direction, in degrees.",
                    1.0,
                ),
                io.Combo.Input("flip", options=list(FLIPS), default=_DEFAULTS.flip, tooltip="Allowed flips."),
                _number(
                    "shear", _DEFAULTS.shear, 0, 60, "Maximum shear in either direction, in degrees.", 1.0
                ),
                _number(
                    "elastic",
                    _DEFAULTS.elastic,
                    0,
                    0.12,
                    "Elastic deformation: maximum displacement of a point, as a fraction of the shorter "
                    "side.",
                ),
                io.Int.Input(
                    "morph",
                    default=_DEFAULTS.morph,
                    min=0,
                    max=64,
                    tooltip="Maximum number of pixels by which shapes grow or shrink.",
                ),
                _number(
                    "area_min",
                    _DEFAULTS.area[0],
                    0,
                    1,
                    "Minimum foreground area, as a fraction of the frame.",
                    0.001,
                ),
                _number(
                    "area_max",
                    _DEFAULTS.area[1],
                    0,
                    1,
                    "Maximum foreground area, as a fraction of the frame.",
                    0.001,
                ),
                io.Boolean.Input(
                    "inside",
                    default=_DEFAULTS.inside,
                    tooltip="Require shapes to stay whole and not touch the border of the frame.",
                ),
                io.Int.Input(
                    "components_min",
                    default=0,
                    min=0,
                    max=10_000,
                    tooltip="Minimum number of objects; 0 means no limit.",
                ),
                io.Int.Input(
                    "components_max",
                    default=0,
                    min=0,
                    max=10_000,
                    tooltip="Maximum number of objects; 0 means no limit.",
                ),
                io.Int.Input(
                    "attempts",
                    default=_DEFAULTS.attempts,
                    min=1,
                    max=10_000,
                    tooltip="Attempts per mask to meet the limits before giving up.",
                ),
                io.Mask.Input(
                    "union",
                    optional=True,
                    tooltip="A second set of masks, used in turn; each is transformed independently and "
                    "added to the result.",
                ),
                io.String.Input(
                    "names",
                    optional=True,
                    force_input=True,
                    tooltip="Names of the masks, one per line; the results get the suffix _0, _1 and so on.",
                ),
                io.Combo.Input(
                    "beyond",
                    options=list(BEYOND),
                    optional=True,
                    default=_DEFAULTS.beyond,  # what graphs saved without this input did
                    tooltip="What lies beyond the frame's edges: background, or the mirrored mask, for "
                    "frames full of objects: none is left cut off when it moves inwards, but some appear "
                    "twice.",
                ),
            ],
            outputs=[
                io.Mask.Output(tooltip="The new masks, strictly 0 or 1."),
                io.String.Output(id="new_names", display_name="names", tooltip="Their names, one per line."),
                TRANSFORM.Output(
                    id="transform",
                    display_name="transform",
                    tooltip="The seed and the limits, for Generate Dataset.",
                ),
            ],
        )
        rare = ("shear", "elastic", "morph", "area_min", "area_max", "components_min", "components_max")
        return searchable(schema, ("augmentation", "random mask"), rare=(*rare, "attempts"))

    @classmethod
    @refusing
    def execute(
        cls,
        masks: Tensor,
        variants: int,
        total: int,
        seed: int,
        scale_min: float,
        scale_max: float,
        translate: float,
        rotate: float,
        flip: str,
        shear: float,
        elastic: float,
        morph: int,
        area_min: float,
        area_max: float,
        inside: bool,
        components_min: int,
        components_max: int,
        attempts: int,
        union: Tensor | None = None,
        names: str | None = None,
        beyond: str = _DEFAULTS.beyond,
    ) -> io.NodeOutput:
        settings = TransformSettings(
            scale=(scale_min, scale_max),
            translate=translate,
            rotate=rotate,
            flip=flip,
            shear=shear,
            elastic=elastic,
            morph=morph,
            area=(area_min, area_max),
            inside=inside,
            components=(components_min, components_max),
            attempts=attempts,
            beyond=beyond,
        )
        sources = mask_arrays(masks)
        stems = names_of(names, len(sources), "mask")
        progress = comfy.utils.ProgressBar(total or variants * len(sources))

        def on_item(done: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            progress.update_absolute(done)

        results = expand_masks(
            sources,
            settings,
            seed,
            variants=variants,
            total=total or None,
            others=None if union is None else mask_arrays(union),
            on_item=on_item,
        )
        made = total > len(sources) if total else variants > 1
        new_names = [pair_stem(stems[item.source], item.variant, 2 if made else 1) for item in results]
        transform = RandomTransform(settings, seed, union is not None)
        return io.NodeOutput(mask_batch([item.mask for item in results]), "\n".join(new_names), transform)


def _number(
    name: str, default: float, least: float, most: float, tooltip: str, step: float = 0.01
) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=default,
        min=least,
        max=most,
        step=step,
        tooltip=tooltip,
    )
