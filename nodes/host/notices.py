"""Messages to the user: text on the running node, below its widgets."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from comfy_execution.utils import get_executing_context

from .advice import in_graph_words

_SIGN = "\N{WARNING SIGN} "


def show(result: str = "", warnings: Sequence[str] = ()) -> str:
    """Show ``warnings`` and ``result`` on the running node until it runs again; return the text shown.

    Sent as progress text, because the page shows text returned by a node only for ComfyUI's own nodes.
    """
    lines = [*(_SIGN + warning for warning in warnings), *result.splitlines()]
    # Each line ends like a sentence, since some frontends join them.
    text = in_graph_words("\n".join(line if line.endswith((".", ")")) else f"{line}." for line in lines))
    # Not imported, since without a running server there is nobody to notify.
    servers = getattr(sys.modules.get("server"), "PromptServer", None)
    context, server = get_executing_context(), getattr(servers, "instance", None)
    if text and context is not None and server is not None:
        server.send_progress_text(text, context.node_id)
    return text


def warn(warnings: Sequence[str]) -> None:
    """Show ``warnings`` on the running node and log them."""
    for warning in warnings:
        logging.warning("Siamese-Diffusion: %s", in_graph_words(warning))
    show(warnings=warnings)
