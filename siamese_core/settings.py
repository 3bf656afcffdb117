"""Settings are frozen dataclasses whose fields carry their line of ``--help`` and the numbers they may be."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from .errors import UserError


class SettingError(UserError):
    """A setting whose number is out of its range; the message names it, its value and the range."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The finite numbers from ``low`` to ``high``, of them only the multiples of ``multiple_of``.

    An end that is ``open`` does not belong to the range.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    multiple_of: int = 1

    def problem(self, number: float) -> str | None:
        """What ``number`` would have to do, after "must"; None for a number in the range."""
        above = self.low < number if self.open_low else self.low <= number
        below = number < self.high if self.open_high else number <= self.high
        # Of nan every comparison is false.
        fits = self.multiple_of == 1 or not number % self.multiple_of
        if above and below and abs(number) < math.inf and fits:
            return None
        if self.multiple_of > 1:
            return (
                f"be at most {self.high:g}"
                if fits and above
                else f"be a positive multiple of {self.multiple_of}"
            )
        return f"lie in {self}" if self.high < math.inf else f"be {self}"

    def __str__(self) -> str:
        if self.multiple_of > 1:
            return f"a multiple of {self.multiple_of}"
        if self.high < math.inf:
            return f"{self.low:g}..{self.high:g}" + (f" and below {self.high:g}" if self.open_high else "")
        if self.open_low:
            return f"above {self.low:g}"
        return "0 or more" if self.low == 0 else f"at least {self.low:g}"


COUNT = Range(1)
"""Of things of which there has to be one."""
COUNT_OR_NONE = Range(0)
"""Where 0 switches something off."""
WEIGHT = Range(0)
"""Of a term in a sum; 0 leaves it out."""
RATE = Range(0, open_low=True)
"""An optimiser's."""
RATE_OR_NONE = Range(0)
"""An optimiser's, where 0 may leave the weights as they are."""
SHARE = Range(0, 1)
DECAY = Range(0, 1, open_high=True)
"""Of a moving average."""
SEED = Range(-(2**63), 2**64 - 1)
"""Seeds are taken modulo 2**64."""
GREY_LEVEL = Range(0, 255)
CLASS = Range(0, 65535)
"""Number of a class in a mask, which has up to 16 bits."""
THREADS = Range(0, 1024)
"""0 leaves torch's choice."""
SAMPLING_STEPS = Range(1, 999)
"""Of DDIM, whose model knows 1000 timesteps."""
GUIDANCE = Range(0, 1000)
"""A guidance scale; 1 switches guidance off."""
SIDE = Range(64, 16384, multiple_of=64)
"""Of an image that a UNet of three halvings sees by way of a VAE of three, in pixels."""


def option(default: Any, help: str, within: Range | None = None, *, added_later: bool = False) -> Any:
    """A dataclass field with ``default``, its line of help, and the range ``within`` which its numbers lie.

    ``added_later``: the setting is younger than records that runs and datasets have been begun with, and its
    default is what those did (see :func:`recorded`).
    """
    return dataclasses.field(
        default=default, metadata={"help": help, "range": within, "added_later": added_later}
    )


def recorded(settings: Any) -> dict[str, Any]:
    """The values of a settings dataclass as a record holds them.

    A setting that was added later is left out at its default, so that what was begun without it is still
    recognised as made with the same settings.
    """
    values = dataclasses.asdict(settings)
    for item in dataclasses.fields(settings):
        if item.metadata.get("added_later") and values[item.name] == item.default:
            del values[item.name]
    return values


def check_range(flag: str, value: Any, within: Range | None) -> None:
    """Raise SettingError, which names ``flag``, unless the number or numbers of ``value`` are in the range.

    Without a range, and where ``value`` is None, there is nothing to check.
    """
    if within is None or value is None:
        return
    for number in value if isinstance(value, tuple) else (value,):
        if problem := within.problem(number):
            shown = number if isinstance(number, int) else f"{number:g}"
            raise SettingError(f"{flag} must {problem}, not {shown}")
