"""What a run has to tell the person at the page: text on the node itself, beneath its widgets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_execution.utils import get_executing_context
from server import PromptServer

_SIGN = "\N{WARNING SIGN} "


def show(result: str = "", warnings: Sequence[str] = ()) -> str:
    """Write ``warnings`` and the ``result`` of the running node on it; the text that is shown.

    It stays there until the node runs again. Text that a node returns for the page is shown for core's own
    nodes only.
    """
    lines = [*(_SIGN + warning for warning in warnings), *result.splitlines()]
    # Some pages show all of them in one line.
    text = "\n".join(line if line.endswith((".", ")")) else f"{line}." for line in lines)
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if text and context is not None and server is not None:
        server.send_progress_text(text, context.node_id)
    return text


def warn(warnings: Sequence[str]) -> None:
    """Write ``warnings`` on the running node, and into the log."""
    for warning in warnings:
        logging.warning("Siamese-Diffusion: %s", warning)
    show(warnings=warnings)


class ReadingNotes:
    """What had to be interpreted in mask files: each note once, with the first file and the count."""

    def __init__(self) -> None:
        self._files: dict[str, list[str]] = {}

    def on_mask(self, path: Path, note: str | None) -> None:
        """Keep the ``note`` on the reading of ``path``, if there is one; stops a run that is interrupted."""
        throw_exception_if_processing_interrupted()
        if note:
            self._files.setdefault(note, []).append(path.name)

    def told(self) -> list[str]:
        return [
            f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {note}"
            for note, names in self._files.items()
        ]
