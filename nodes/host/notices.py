"""What a run has to tell the person at the page: text on the node itself, beneath its widgets."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from comfy_execution.utils import get_executing_context
from server import PromptServer

_SIGN = "\N{WARNING SIGN} "


def show(result: str = "", warnings: Sequence[str] = ()) -> str:
    """Write ``warnings`` and the ``result`` of the running node on it; the text that is shown.

    It stays there until the node runs again. Text that a node returns for the page is shown for core's own
    nodes only.
    """
    text = "\n".join([*(_SIGN + warning for warning in warnings), *filter(None, [result])])
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if text and context is not None and server is not None:
        server.send_progress_text(text, context.node_id)
    return text


def warn(warning: str) -> None:
    """Write ``warning`` into the log."""
    logging.warning("Siamese-Diffusion: %s", warning)
