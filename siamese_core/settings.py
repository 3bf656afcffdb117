"""Settings are frozen dataclasses whose fields carry the line that a command's ``--help`` prints."""

from __future__ import annotations

import dataclasses
from typing import Any


def option(default: Any, help: str, *, added_later: bool = False) -> Any:
    """A dataclass field with ``default`` and its line of help.

    ``added_later``: the setting is younger than records that runs and datasets have been begun with, and its
    default is what those did (see :func:`recorded`).
    """
    return dataclasses.field(default=default, metadata={"help": help, "added_later": added_later})


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
