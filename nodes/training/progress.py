"""Training progress on the node: the bar, a line of text and the latest preview sheet."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import comfy.model_management
import comfy.utils
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..host.notices import show

_LONGEST_SIDE = 1024  # longest side of the sheet on the node, in pixels
_SECONDS_BETWEEN_TEXTS = 0.5
_TERMS = ("loss", "mask", "image")  # those that fit on a line of the node; the log has all


class TrainingProgress:
    """Progress over ``steps``, starting at ``first``; lets the user interrupt between steps.

    ``notes`` are warnings to be shown above it.
    """

    def __init__(self, steps: int, first: int, notes: Sequence[str] = ()) -> None:
        self._steps, self._first, self._notes = steps, first, notes
        self._bar = comfy.utils.ProgressBar(steps)
        self._begun = time.monotonic()
        self._said = 0.0
        self._losses = ""
        self.done = first

    def on_step(self, done: int) -> None:
        """Report that ``done`` steps are done. Raises the host's interruption if the user asked for it."""
        self.done = done
        if time.monotonic() - self._said >= _SECONDS_BETWEEN_TEXTS or done == self._steps:
            self._said = time.monotonic()
            self._say()
        self._bar.update_absolute(done, self._steps)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def on_values(self, _step: int, values: Mapping[str, float]) -> None:
        """Take the losses of the latest step for the next text."""
        self._losses = ", ".join(f"{name} {values[name]:.4f}" for name in _TERMS if name in values)

    def on_sheet(self, sheet: NDArray[np.uint8]) -> None:
        """Show the preview ``sheet`` (H, W, 3)."""
        self._bar.update_absolute(self.done, self._steps, ("PNG", Image.fromarray(sheet), _LONGEST_SIDE))

    def _say(self) -> None:
        new, passed = self.done - self._first, time.monotonic() - self._begun
        text = f"step {self.done} of {self._steps}"
        if new and passed > 0:
            left = (self._steps - self.done) * passed / new
            text += f" · {new / passed:.2f} steps/s · {_duration(left)} left"
        show(f"{text}\n{self._losses}" if self._losses else text, self._notes)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
