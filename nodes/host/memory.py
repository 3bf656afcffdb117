"""Recognising out-of-memory errors."""

from __future__ import annotations

import comfy.model_management


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` is an out-of-memory error, so that a smaller batch may succeed."""
    management = comfy.model_management
    is_oom = getattr(management, "is_oom", None)  # newer hosts recognise more kinds
    return bool(is_oom(error)) if is_oom else isinstance(error, management.OOM_EXCEPTION)
