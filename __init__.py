"""Siamese-Diffusion for ComfyUI: the entry point that the host calls.

Nothing else is imported here, so that tools and tests can look at the folder without a host.
"""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """The extension with the pack's nodes."""
    from .nodes.extension import SiameseExtension

    return SiameseExtension()
