"""Conditioning of the sampling nodes: what belongs to single samples, and the mask's control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...siamese_core.architecture import LATENT_STRIDE
from ..host.control import AREA_REFUSED, ControlError

_OF_SAMPLES = {
    "mask": "masks of a region",
    "concat_latent_image": "images to inpaint",
    "concat_mask": "masks to inpaint",
}
"""Options of a conditioning that may hold a value for each sample, and what they are called in messages."""


def of_samples(conditionings: Sequence[Any], samples: range, count: int) -> list[Any]:
    """The ``conditionings`` of those ``samples`` of ``count`` that are computed together.

    Embeddings, masks of regions and hints of other ControlNets may be one for all samples, or as many as the
    samples, of which the host would give every batch the first ones. Raises ControlError for other numbers.
    """
    cut = _Cut(samples, count)
    return [[cut.entry(embedding, options) for embedding, options in one] for one in conditionings]


def require_common(conditionings: Sequence[Any], height: int, width: int) -> None:
    """Raise ControlError unless ``conditionings`` are the same for all samples and for whole images.

    ``height`` and ``width`` are those of the images in pixels.
    """
    for conditioning in conditionings:
        for _, options in conditioning:
            _refuse_area(options, height, width)
    try:
        of_samples(conditionings, range(1), 1)
    except ControlError as error:
        raise ControlError(
            "The conditioning holds embeddings, masks of regions or hints of another ControlNet for several "
            "samples, but a dataset's pairs need the same for all; give a single one, or use Mask-Diffusion "
            "Sampler and Save Pairs."
        ) from error


class _Cut:
    """Cuts values to some of the samples; a ControlNet that several entries share stays shared."""

    def __init__(self, samples: range, count: int) -> None:
        self._samples, self._count = samples, count
        self._controls: dict[int, tuple[Any, Any]] = {}

    def entry(self, embedding: Tensor, options: dict[str, Any]) -> list[Any]:
        options = dict(options)
        for name, told in _OF_SAMPLES.items():
            if isinstance(values := options.get(name), Tensor):
                # The host takes a mask (H, W) for one of all samples.
                options[name] = self._rows(values[None] if values.ndim == 2 else values, told)
        if "control" in options:
            options["control"] = self._control(options["control"])
        return [embedding if embedding is None else self._rows(embedding, "embeddings"), options]

    def _rows(self, values: Tensor, told: str) -> Tensor:
        if len(values) == 1 or len(self._samples) == len(values) == self._count:
            return values
        if len(values) != self._count:
            raise ControlError(
                f"The conditioning holds {len(values)} {told} for {self._count} masks; give one, or as many "
                "as masks."
            )
        return values[self._samples.start : self._samples.stop]

    def _control(self, control: Any) -> Any:
        if control is None:
            return None
        # The original is kept too, so that no other object takes its id.
        if id(control) not in self._controls:
            self._controls[id(control)] = control, self._own_control(control)
        return self._controls[id(control)][1]

    def _own_control(self, control: Any) -> Any:
        previous = self._control(control.previous_controlnet)
        hint = control.cond_hint_original
        own = hint if hint is None else self._rows(hint, "hints of another ControlNet")
        if own is hint and previous is control.previous_controlnet:
            return control
        twin = control.copy().set_previous_controlnet(previous)
        twin.cond_hint_original = own
        twin.extra_concat_orig = [self._rows(one, "masks of a hint") for one in control.extra_concat_orig]
        return twin


def _refuse_area(options: Mapping[str, Any], height: int, width: int) -> None:
    """Raise ControlError for the options of a conditioning that holds for a part of the image only."""
    area = options.get("area") or (0, 0, 0, 0)
    if area[0] == "percentage":
        high, wide, *corner = area[1:]
    else:
        high, wide = area[0] * LATENT_STRIDE / height, area[1] * LATENT_STRIDE / width
        corner = area[2:]
    is_part = "area" in options and (high < 1 or wide < 1 or any(corner))
    if is_part or options.get("set_area_to_bounds"):
        raise ControlError(AREA_REFUSED)


def with_control(
    positive: Any, negative: Any, control_net: Any, hint: Tensor, strength: float
) -> tuple[Any, Any]:
    """Add the control of ``hint`` (B, 3, H, W) in [0, 1] to both conditionings, keeping existing controls.

    Raises ControlError for conditioning that is limited to an area.
    """
    twins: dict[Any, Any] = {}

    def controlled(conditioning: Any) -> list[Any]:
        entries = []
        for embedding, options in conditioning:
            _refuse_area(options, *hint.shape[-2:])
            previous = options.get("control")
            if previous not in twins:
                twin = control_net.copy().set_cond_hint(hint, strength)
                twin.tells_of_empty = False
                twins[previous] = twin.set_previous_controlnet(previous)
            options = {**options, "control": twins[previous], "control_apply_to_uncond": False}
            entries.append([embedding, options])
        return entries

    return controlled(positive), controlled(negative)
