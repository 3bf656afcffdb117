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

_MOST_LEVELS, _MOST_LAYERS, _MOST_CHANNELS = 10, 100, 1 << 20
_SHOWN = 80  # characters of a value in messages


@dataclass(frozen=True)
class UNetArchitecture:
    """SD 1.x topology: attention on every level but the deepest, two residual blocks a level.

    ``widths`` are multiples of 32 (32 group-norm groups) and of the first width (the ldm layout's
    ``channel_mult``). ``num_heads`` cannot be read from weights.
    """

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    num_heads: int = 8
    context_dim: int = 768
    latent_channels: int = 4


@dataclass(frozen=True)
class VAEArchitecture:
    """AutoencoderKL with middle attention, stride ``2 ** (len(widths) - 1)``."""

    widths: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4


@dataclass(frozen=True)
class TextArchitecture:
    """CLIP text transformer with quick-GELU; its hidden size is the UNet's context size."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    vocab_size: int = 49408
    max_tokens: int = 77


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
            _check(architecture)
            return architecture
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a model architecture record ({error}): {text[:200]}") from error


def _with_tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}


def _check(architecture: Architecture) -> None:
    """Raise ValueError for what no architecture can be: the record may come from anyone."""
    if architecture.hint_block not in get_args(HintBlock):
        raise ValueError(f"hint_block is {str(architecture.hint_block)[:_SHOWN]}")
    numbers = {"resolution": architecture.resolution}
    for part in (architecture.unet, architecture.vae, architecture.text):
        numbers |= vars(part)
        widths = vars(part).get("widths", (1,))
        if not isinstance(widths, tuple) or not 1 <= len(widths) <= _MOST_LEVELS:
            raise ValueError(f"widths is {str(widths)[:_SHOWN]}")
        numbers |= {f"widths[{level}]": width for level, width in enumerate(widths)}
        numbers.pop("widths", None)
        for name, number in numbers.items():
            most = _MOST_LAYERS if name in ("layers_per_block", "num_layers") else _MOST_CHANNELS
            if type(number) is not int or not 1 <= number <= most:
                raise ValueError(f"{name} is {str(number)[:_SHOWN]}")


SD15 = Architecture()

TINY = Architecture(
    unet=UNetArchitecture(widths=(64, 64, 64, 64), num_heads=4, context_dim=32),
    vae=VAEArchitecture(widths=(64, 64, 64, 64), layers_per_block=1),
    text=TextArchitecture(hidden_size=32, intermediate_size=128, num_layers=2, num_heads=4),
    resolution=128,
)
"""The architecture of the tiny models that ship with the pack."""
