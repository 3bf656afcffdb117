"""What a weight file cannot say by itself: widths, depths and heads of the four networks of a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from .json_lines import parse_json

LATENT_SCALE = 0.18215
"""Latents are VAE samples times this (Stable Diffusion 1.x); also what the host multiplies by."""

LATENT_STRIDE = 8

HintBlock = Literal["dense", "sparse"]

Prediction = Literal["epsilon", "v_prediction"]
"""What a UNet gives: the noise (SD 1.x, SD 2.1-base), or v of it and the image (SD 2.1)."""

_MOST_LEVELS, _MOST_LAYERS, _MOST_CHANNELS = 10, 100, 1 << 20
_SHOWN = 80  # characters of a value in messages


@dataclass(frozen=True)
class UNetArchitecture:
    """SD 1.x and 2.x topology: attention on every level but the deepest, two residual blocks a level.

    ``widths`` are multiples of 32 (32 group-norm groups) and of the first width (the ldm layout's
    ``channel_mult``). Every level has ``num_heads`` heads, which cannot be read from weights; or, with
    ``head_channels``, as many as have that many channels (SD 2.x: 64). ``linear_projection``: tokens go in
    and out of a transformer through linear layers (SD 2.x), not 1x1 convolutions.
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
        """Heads of every level, or of each."""
        if not self.head_channels:
            return self.num_heads
        return tuple(max(1, width // self.head_channels) for width in self.widths)


@dataclass(frozen=True)
class VAEArchitecture:
    """AutoencoderKL with middle attention, stride ``2 ** (len(widths) - 1)``."""

    widths: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4


@dataclass(frozen=True)
class TextArchitecture:
    """CLIP text transformer; its hidden size is the UNet's context size.

    ``family``: OpenAI's CLIP (SD 1.x: quick-GELU, prompts padded with the end token) or OpenCLIP (SD 2.x:
    GELU, padded with 0, other names in files). ``num_layers`` counts the layers that are used: SD 2.x leaves
    out OpenCLIP's last one.
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

    ``resolution`` is the image side in pixels that the model was trained for.
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

        Raises ValueError when a field is missing, unknown or of another kind, and for numbers so large that
        the mere list of the weights' names would fill the memory.
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
    """Raise ValueError for what no architecture can be: its numbers may come from anyone's file.

    Called before anything counts up to them.
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
"""The architecture of the tiny models that ship with the pack."""
