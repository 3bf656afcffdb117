"""The architecture of a model: widths, depths and heads of its four networks, as recorded in model files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from .json_lines import parse_json

LATENT_SCALE = 0.18215
"""Scaled latents are VAE samples times this (Stable Diffusion 1.x); ComfyUI uses the same factor."""

LATENT_STRIDE = 8
"""Image pixels per latent pixel along each axis."""

HintBlock = Literal["dense", "sparse"]

Prediction = Literal["epsilon", "v_prediction"]
"""What a UNet predicts: the noise (SD 1.x, SD 2.1-base) or v (SD 2.1)."""

_MOST_LEVELS, _MOST_LAYERS, _MOST_CHANNELS = 10, 100, 1 << 20
_SHOWN = 80  # most characters of a value quoted in a message


@dataclass(frozen=True)
class UNetArchitecture:
    """A UNet of SD 1.x or 2.x topology, with attention on every level but the deepest.

    ``widths``, the channels per level, are multiples of 32 (group norm has 32 groups) and of the first width
    (the ldm layout's ``channel_mult``). Every level has ``num_heads`` heads, which weights do not reveal, or
    heads of ``head_channels`` channels if that is set (SD 2.x: 64). ``linear_projection``: transformers
    project tokens with linear layers (SD 2.x) instead of 1x1 convolutions.
    """

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    num_heads: int = 8
    context_dim: int = 768
    latent_channels: int = 4
    head_channels: int = 0
    linear_projection: bool = False

    @property
    def heads(self) -> int | tuple[int, ...]:
        """Number of attention heads: one for all levels, or a tuple with one per level."""
        if not self.head_channels:
            return self.num_heads
        return tuple(max(1, width // self.head_channels) for width in self.widths)


@dataclass(frozen=True)
class VAEArchitecture:
    """An AutoencoderKL with attention in the middle block and stride ``2 ** (len(widths) - 1)``."""

    widths: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4


@dataclass(frozen=True)
class TextArchitecture:
    """A CLIP text transformer; its hidden size is the UNet's ``context_dim``.

    ``family``: OpenAI's CLIP (SD 1.x: quick-GELU, prompts padded with the end token) or OpenCLIP (SD 2.x:
    GELU, prompts padded with 0, other key names in files). ``num_layers`` counts the layers used: SD 2.x
    leaves out OpenCLIP's last one.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    vocab_size: int = 49408
    max_tokens: int = 77
    family: Literal["clip", "open_clip"] = "clip"


@dataclass(frozen=True)
class Architecture:
    """The four networks of a model; the defaults are Stable Diffusion 1.5 with a DHI ControlNet.

    ``resolution`` is the image side in pixels that the base model was made for.
    """

    unet: UNetArchitecture = field(default_factory=UNetArchitecture)
    vae: VAEArchitecture = field(default_factory=VAEArchitecture)
    text: TextArchitecture = field(default_factory=TextArchitecture)
    hint_block: HintBlock = "dense"
    resolution: int = 512
    prediction: Prediction = "epsilon"

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Architecture:
        """Read what :meth:`to_json` wrote.

        Raises ValueError when a field is missing, unknown or of the wrong type, and for numbers so large that
        merely listing the weights' names would exhaust memory.
        """
        try:
            record: dict[str, Any] = parse_json(text)
            architecture = Architecture(
                unet=UNetArchitecture(**_with_tuples(record.pop("unet"))),
                vae=VAEArchitecture(**_with_tuples(record.pop("vae"))),
                text=TextArchitecture(**record.pop("text")),
                **record,
            )
            check_architecture(architecture)
            return architecture
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a model architecture record ({error}): {text[:200]}") from error


def _with_tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}


def check_architecture(architecture: Architecture) -> None:
    """Raise ValueError for an impossible architecture, since its numbers may come from untrusted files.

    Call it before any loop runs up to these numbers.
    """
    choices = (
        ("hint_block", architecture.hint_block, get_args(HintBlock)),
        ("prediction", architecture.prediction, get_args(Prediction)),
        ("family", architecture.text.family, ("clip", "open_clip")),
    )
    for name, value, known in choices:
        if value not in known:
            raise ValueError(f"{name} is {str(value)[:_SHOWN]}")
    _check_number("resolution", architecture.resolution)
    for part in (architecture.unet, architecture.vae, architecture.text):
        for name, value in vars(part).items():
            if name == "widths" and isinstance(value, tuple) and 1 <= len(value) <= _MOST_LEVELS:
                for width in value:
                    _check_number(name, width)
            elif type(getattr(type(part), name)) is int:
                _check_number(name, value)
            elif type(value) is not type(getattr(type(part), name)) or name == "widths":
                raise ValueError(f"{name} is {str(value)[:_SHOWN]}")


def _check_number(name: str, number: object) -> None:
    most = _MOST_LAYERS if name in ("layers_per_block", "num_layers") else _MOST_CHANNELS
    least = 0 if name in ("head_channels", "layers_per_block") else 1
    if type(number) is not int or not least <= number <= most:
        raise ValueError(f"{name} is {str(number)[:_SHOWN]}")


SD15 = Architecture()


def is_small(architecture: Architecture) -> bool:
    """Whether the UNet is narrower than that of Stable Diffusion 1.5."""
    return architecture.unet.widths[0] < SD15.unet.widths[0]


SD21 = Architecture(
    unet=UNetArchitecture(context_dim=1024, head_channels=64, linear_projection=True),
    text=TextArchitecture(1024, 4096, num_layers=23, num_heads=16, family="open_clip"),
    resolution=768,
    prediction="v_prediction",
)

TINY = Architecture(
    unet=UNetArchitecture(widths=(64, 64, 64, 64), num_heads=4, context_dim=32),
    vae=VAEArchitecture(widths=(64, 64, 64, 64), layers_per_block=1),
    text=TextArchitecture(hidden_size=32, intermediate_size=128, num_layers=2, num_heads=4),
    resolution=128,
)
"""The architecture of the tiny bundled models."""
