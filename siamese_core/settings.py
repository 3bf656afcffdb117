"""Settings: frozen dataclasses whose fields carry their ``--help`` text and their allowed range."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from .errors import UserError


class SettingError(UserError):
    """A setting is out of range; the message names the setting, its value and the range."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The finite numbers from ``low`` to ``high`` that are multiples of ``multiple_of`` (if above 1).

    Ends with ``open_low`` or ``open_high`` are excluded.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    multiple_of: int = 1

    def problem(self, number: float) -> str | None:
        """The end of a sentence "must ..." for a ``number`` out of range; None for one in the range."""
        above = self.low < number if self.open_low else self.low <= number
        below = number < self.high if self.open_high else number <= self.high
        # Every comparison with nan is false, so nan is out of range.
        fits = self.multiple_of == 1 or not number % self.multiple_of
        if above and below and abs(number) < math.inf and fits:
            return None
        if self.multiple_of > 1:
            return (
                f"be at most {self.high:g}"
                if fits and above
                else f"be a positive multiple of {self.multiple_of}"
            )
        return f"be {self}" if self.high == math.inf or self.open_low else f"lie in {self}"

    def __str__(self) -> str:
        if self.multiple_of > 1:
            return f"a multiple of {self.multiple_of}"
        if self.high < math.inf and self.open_low:
            return f"above {self.low:g} and {'below' if self.open_high else 'at most'} {self.high:g}"
        if self.high < math.inf:
            return f"{self.low:g}..{self.high:g}" + (f" and below {self.high:g}" if self.open_high else "")
        if self.open_low:
            return f"above {self.low:g}"
        return "0 or more" if self.low == 0 else f"at least {self.low:g}"


COUNT = Range(1)
"""A count of at least one."""
COUNT_OR_NONE = Range(0)
"""A count where 0 switches something off."""
WEIGHT = Range(0)
"""The weight of a term in a sum; 0 leaves it out."""
RATE = Range(0, open_low=True)
"""A learning rate."""
RATE_OR_NONE = Range(0)
"""A learning rate; 0 leaves the weights unchanged."""
SHARE = Range(0, 1)
DECAY = Range(0, 1, open_high=True)
"""The decay of a moving average."""
SEED = Range(-(2**63), 2**64 - 1)
"""A seed, taken modulo 2**64."""
GREY_LEVEL = Range(0, 255)
CLASS = Range(0, 65535)
"""A class number in a mask of up to 16 bits."""
THREADS = Range(0, 1024)
"""A number of CPU threads; 0 leaves torch's choice."""
SAMPLING_STEPS = Range(1, 999)
"""Sampling steps, fewer than the model's 1000 timesteps."""
GUIDANCE = Range(0, 1000)
"""A guidance scale; 1 switches guidance off."""
SIDE = Range(64, 16384, multiple_of=64)
"""An image side in pixels; VAE and UNet each halve it three times."""


def option(default: Any, help: str, within: Range | None = None, *, added_later: bool = False) -> Any:
    """A dataclass field with a ``default``, its ``--help`` text, and the range of its number or numbers.

    ``added_later``: existing records of runs and datasets lack this setting, and its default is what they did
    (see :func:`recorded`).
    """
    return dataclasses.field(
        default=default, metadata={"help": help, "range": within, "added_later": added_later}
    )


def recorded(settings: Any) -> dict[str, Any]:
    """The values of a settings dataclass for a record.

    A setting that was added later is omitted at its default, so that older records still compare equal.
    """
    values = dataclasses.asdict(settings)
    for item in dataclasses.fields(settings):
        if item.metadata.get("added_later") and values[item.name] == item.default:
            del values[item.name]
    return values


def check_range(flag: str, value: Any, within: Range | None) -> None:
    """Raise SettingError, naming ``flag``, unless ``value`` (a number or a tuple) is within the range.

    Nothing is checked without a range or when ``value`` is None.
    """
    if within is None or value is None:
        return
    for number in value if isinstance(value, tuple) else (value,):
        if problem := within.problem(number):
            shown = number if isinstance(number, int) else f"{number:g}"
            raise SettingError(f"{flag} must {problem}, not {shown}")
