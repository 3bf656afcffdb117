"""What a node says when its user can mend something: a sentence, with no module's name before it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from comfy_api.latest import io

from ...siamese_core.errors import UserError
from .advice import in_graph_words

_SHOWN_CHOICES = 12


class SiameseError(Exception):
    """A node's refusal; the message says what to change."""


# The page shows an exception's module before its message, except for one of Python's own.
SiameseError.__module__ = "builtins"


def refusing(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """A node's ``execute`` that checks the widgets' values first, and refuses by raising SiameseError."""

    @functools.wraps(execute)
    def checked(cls: type[io.ComfyNode], **values: Any) -> io.NodeOutput:
        try:
            check_widgets(cls.define_schema().inputs, values)
            return execute(cls, **values)
        except UserError as error:
            raise SiameseError(in_graph_words(str(error))) from error

    return checked


def check_widgets(inputs: Iterable[io.Input], values: Mapping[str, Any]) -> None:
    """Raise UserError for a value outside of a widget's range or choices.

    The host checks what is typed into widgets, older ones all but choices, and never what comes by a link.
    """
    for widget in inputs:
        value = values.get(widget.id)
        if value is None:
            continue
        if isinstance(widget, io.Combo.Input) and value not in widget.options:
            names = [str(option) for option in widget.options]
            more = f" and {len(names) - _SHOWN_CHOICES} more" if len(names) > _SHOWN_CHOICES else ""
            raise UserError(
                f"'{widget.id}' is {str(value)[:100]!r}, which is none of its choices "
                f"({', '.join(names[:_SHOWN_CHOICES])}{more}); choose one of them."
            )
        if isinstance(widget, (io.Int.Input, io.Float.Input)) and not _fits(widget, value):
            raise UserError(
                f"'{widget.id}' is {str(value)[:100]}; give a number from {widget.min} to {widget.max}."
            )


def _fits(widget: Any, value: Any) -> bool:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return False
    return bool(widget.min <= value <= widget.max)
