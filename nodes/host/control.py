"""The DHI ControlNet inside the host's ControlNet wrapper."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_detection
import comfy.model_management
import comfy.ops
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import TimestepEmbedSequential
from torch import Tensor

from ...siamese_core.architecture import LATENT_STRIDE, UNetArchitecture
from ...siamese_core.errors import UserError
from ...siamese_core.method.dhi import dense_hint_block, sparse_hint_block
from ...siamese_core.weights.model_file import ModelFile
from .notices import warn

_HINT_BLOCKS = {"dense": dense_hint_block, "sparse": sparse_hint_block}
_SHAPES = ("model_channels", "channel_mult", "num_res_blocks", "context_dim")
"""Entries of the host's UNet configuration in which a ControlNet equals every model that it fits."""
_DUMMY_SIDE = 64  # side of the black mask that Load Image returns for a file without alpha


AREA_REFUSED = (
    "The conditioning is limited to an area (Conditioning Set Area, or Set Mask with 'mask bounds'), into "
    "which the host would squeeze the whole mask; take that node out, or use Conditioning (Set Mask) with "
    "'default'."
)


class ControlError(UserError):
    """A hint or noise levels that do not fit the sampling; the message says what to change."""


# Also raised inside ComfyUI's own sampling nodes, where `refusing` cannot hide the module's name.
ControlError.__module__ = "builtins"


class HintBlock(TimestepEmbedSequential):
    """``input_hint_block`` that caches its features for the lifetime of a hint tensor.

    The host calls it at every step with the same tensor, although it depends on neither timestep nor text,
    and for small models it is most of the work. Sharing is safe because the host adds the features to another
    tensor.
    """

    def __init__(self, *modules: torch.nn.Module) -> None:
        super().__init__(*modules)
        self._features: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}

    def forward(self, hint: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        known = self._features.get(id(hint))
        if known is not None and known[0]() is hint:
            return known[1]
        features: Tensor = super().forward(hint, *args, **kwargs)
        key, store = id(hint), self._features
        store[key] = (weakref.ref(hint, lambda _: store.pop(key, None)), features)
        return features

    def __getstate__(self) -> dict[str, Any]:
        # Copies, which may be on another device, start with an empty cache.
        return {**self.__dict__, "_features": {}}


class DHIControlNet(comfy.cldm.cldm.ControlNet):
    """The host's ControlNet module with a dense or sparse hint block of this package."""

    def __init__(self, hint_block: str, **config: Any) -> None:
        super().__init__(hint_channels=3, **config)
        modules = _HINT_BLOCKS[hint_block](
            config["model_channels"], config["operations"], dtype=config["dtype"], device=config["device"]
        )
        self.input_hint_block = HintBlock(*modules)


class SiameseControl(comfy.controlnet.ControlNet):
    """CONTROL_NET that refuses hints which the host would silently crop, repeat or drop.

    ``run_id`` is the training run of the weights, and ``has_decoder`` tells that it trained a decoder, too.
    ``shape`` are those entries of the host's UNet configuration that a model must share. ``tells_of_empty``:
    warn about masks without foreground on the sampling node; nodes that warn themselves switch it off.
    """

    run_id = ""
    has_decoder = False
    shape: Mapping[str, Any] = MappingProxyType({})
    tells_of_empty = True
    _last: tuple[tuple[int, ...], Tensor] | None = None
    """The latents' size and the timestep of the last call in a sampling."""
    _left: weakref.ref[Tensor] | None = None
    """The hint as the last call left it; others that are found in its place were put there on purpose."""

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Begin a sampling. Raises ControlError if the control does not fit the host's ``model``."""
        check_shape(self.shape, model.model_config.unet_config)
        # The host leaves the hint of a cancelled sampling here, which would then count as checked.
        if not self._has_foreign_hint():
            self.cond_hint = None
        self._last = None
        super().pre_run(model, percent_to_timestep_function)

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: Any, batched_number: int, transformer_options: Any
    ) -> Any:
        if self._has_foreign_hint():
            return super().get_control(x_noisy, t, cond, batched_number, transformer_options)
        size, last = tuple(x_noisy.shape[-2:]), self._last
        if last is None or last[0] != size:
            # Samplers that enlarge the latents on the way do so between two timesteps.
            if last is not None and (size < last[0] or float(last[1][0]) == float(t[0])):
                raise ControlError(AREA_REFUSED)
            check_hint(self.cond_hint_original, x_noisy, batched_number)
        is_told = last is None and self.tells_of_empty
        if is_told and (warnings := empty_mask_warnings(self.cond_hint_original > 0.5)):
            warn(warnings)
        self._last = size, t
        try:
            return super().get_control(x_noisy, t, cond, batched_number, transformer_options)
        finally:  # also if the network runs out of memory
            self._left = None if self.cond_hint is None else weakref.ref(self.cond_hint)

    def _has_foreign_hint(self) -> bool:
        """Whether another node has set the hint of this sampling, as those that sample in tiles do."""
        return self.cond_hint is not None and (self._left is None or self._left() is not self.cond_hint)

    def copy(self) -> SiameseControl:
        twin = SiameseControl(
            None,
            global_average_pooling=self.global_average_pooling,
            load_device=self.load_device,
            manual_cast_dtype=self.manual_cast_dtype,
        )
        twin.control_model = self.control_model
        twin.control_model_wrapped = self.control_model_wrapped
        twin.run_id, twin.has_decoder, twin.shape = self.run_id, self.has_decoder, self.shape
        self.copy_to(twin)
        return twin


def build_control(model: ModelFile) -> SiameseControl:
    """Build the CONTROL_NET of a ``model`` file that contains a ControlNet."""
    weights = model.parts["control"]
    config = comfy.model_detection.detect_unet_config(weights, "")
    shape = {name: config.get(name) for name in _SHAPES}
    for key in ("out_channels", "transformer_depth_output"):
        config.pop(key, None)
    management = comfy.model_management
    load_device = management.get_torch_device()
    dtype = management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights), weight_dtype=comfy.utils.weight_dtype(weights)
    )
    cast = management.unet_manual_cast(dtype, load_device)
    config.update(
        **head_counts(model.architecture.unet),
        operations=comfy.ops.pick_operations(dtype, cast),
        dtype=dtype,
        device=management.unet_offload_device(),
    )
    network = DHIControlNet(model.architecture.hint_block, **config)
    network.load_state_dict(weights, strict=True)
    control = SiameseControl(network, load_device=load_device, manual_cast_dtype=cast)
    control.run_id, control.has_decoder, control.shape = model.run_id, "unet" in model.parts, shape
    return control


def head_counts(unet: UNetArchitecture) -> dict[str, int]:
    """The host's configuration entries for attention heads: a number of heads or of channels per head."""
    if unet.head_channels:
        return {"num_heads": -1, "num_head_channels": unet.head_channels}
    return {"num_heads": unet.num_heads, "num_head_channels": -1}


def check_shape(shape: Mapping[str, Any], unet_config: Mapping[str, Any]) -> None:
    """Raise ControlError unless a network of ``shape`` fits a model of the host's ``unet_config``.

    The host itself only logs that a control "could not be applied", and images do not follow their masks.
    """
    differing = [name for name, value in shape.items() if _plain(unet_config.get(name)) != _plain(value)]
    if differing:
        told = ", ".join(
            f"{name} {_plain(shape[name])}, the model {_plain(unet_config.get(name))}" for name in differing
        )
        raise ControlError(
            f"The ControlNet was trained on another kind of model than MODEL (the ControlNet has {told}); "
            "take both from one file, or MODEL from the base that it was trained on."
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def check_hint(hint: Tensor, x_noisy: Tensor, batched_number: int) -> None:
    """Raise ControlError unless ``hint`` (N, 3, H, W) fits the latents ``x_noisy`` (B, 4, h, w).

    N must be 1 or the number of latents, B / ``batched_number`` (repeated for guidance), and the aspect
    ratios must agree.
    """
    count, (height, width) = len(hint), hint.shape[-2:]
    latents, (latent_height, latent_width) = len(x_noisy) // batched_number, x_noisy.shape[-2:]
    refuse_dummy(hint)
    if count not in (1, latents):
        raise ControlError(
            f"There are {count} masks for {latents} latents; give as many latents as masks (Empty Latent "
            "Image, batch_size), or a single mask for all."
        )
    # Allow for rounding by one latent pixel.
    if abs(height * latent_width - width * latent_height) > max(height, width):
        wanted = f"{latent_width * LATENT_STRIDE} x {latent_height * LATENT_STRIDE}"
        raise ControlError(
            f"The mask is {width} x {height} pixels and the image to generate {wanted}: another aspect, so "
            "the host would cut the mask; resize the mask or change the size of the empty latent."
        )


def empty_mask_warnings(masks: Tensor) -> list[str]:
    """A warning if some of the bool ``masks`` (B, ...) have no foreground."""
    empty = [number for number, mask in enumerate(masks, start=1) if not mask.any()]
    if not empty:
        return []
    return [
        f"{len(empty)} of {len(masks)} masks (first: number {empty[0]}) without foreground: no value exceeds "
        "one half (Load Image reads the alpha channel)"
    ]


def refuse_dummy(mask: Tensor) -> None:
    """Raise ControlError when ``mask`` (..., H, W) is Load Image's placeholder for a file without alpha."""
    if tuple(mask.shape[-2:]) == (_DUMMY_SIDE, _DUMMY_SIDE) and not mask.any():
        raise ControlError(
            f"The mask is the black {_DUMMY_SIDE} x {_DUMMY_SIDE} one that Load Image gives for a file "
            "without an alpha channel; read the mask with Load Masks, or with Load Image (as Mask) and its "
            "channel 'red'."
        )
