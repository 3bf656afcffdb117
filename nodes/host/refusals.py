"""Errors that the user can fix, shown on the page as a plain sentence without a module name."""

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
    """A node refuses its inputs; the message says what to change."""


# The page prefixes an exception's message with its module, except for built-in exceptions.
SiameseError.__module__ = "builtins"


def refusing(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """Decorate a node's ``execute``: check widget values first, and turn UserError into SiameseError."""

    @functools.wraps(execute)
    def checked(cls: type[io.ComfyNode], **values: Any) -> io.NodeOutput:
        try:
            check_widgets(cls.define_schema().inputs, values)
            return execute(cls, **values)
        except UserError as error:
            raise SiameseError(in_graph_words(str(error))) from error

    return checked


def check_widgets(inputs: Iterable[io.Input], values: Mapping[str, Any]) -> None:
    """Raise UserError for a value outside a widget's range or choices.

    The host checks typed values only (older ones not even choices), never values that come through a link.
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
