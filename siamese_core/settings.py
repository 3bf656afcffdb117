"""Settings are frozen dataclasses whose fields carry the line that a command's ``--help`` prints."""

from __future__ import annotations

import dataclasses
from typing import Any


def option(default: Any, help: str) -> Any:
    """A dataclass field with ``default`` and its line of help."""
    return dataclasses.field(default=default, metadata={"help": help})
