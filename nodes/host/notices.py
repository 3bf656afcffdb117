"""What a run has to tell the person at the page: text on the node itself, beneath its widgets."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from comfy_execution.utils import get_executing_context

from .advice import in_graph_words

_SIGN = "\N{WARNING SIGN} "


def show(result: str = "", warnings: Sequence[str] = ()) -> str:
    """Write ``warnings`` and the ``result`` of the running node on it; the text that is shown.

    It stays there until the node runs again. Text that a node returns for the page is shown for core's own
    nodes only.
    """
    lines = [*(_SIGN + warning for warning in warnings), *result.splitlines()]
    # Some pages show all of them in one line.
    text = in_graph_words("\n".join(line if line.endswith((".", ")")) else f"{line}." for line in lines))
    # Never imported: where no server runs, in another process, nobody is there to be told.
    servers = getattr(sys.modules.get("server"), "PromptServer", None)
    context, server = get_executing_context(), getattr(servers, "instance", None)
    if text and context is not None and server is not None:
        server.send_progress_text(text, context.node_id)
    return text


def warn(warnings: Sequence[str]) -> None:
    """Write ``warnings`` on the running node, and into the log."""
    for warning in warnings:
        logging.warning("Siamese-Diffusion: %s", in_graph_words(warning))
    show(warnings=warnings)
