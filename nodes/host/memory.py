"""The memory of the host's device."""

from __future__ import annotations

import comfy.model_management


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` means that less work at once may do."""
    management = comfy.model_management
    is_oom = getattr(management, "is_oom", None)  # newer hosts know more kinds
    return bool(is_oom(error)) if is_oom else isinstance(error, management.OOM_EXCEPTION)
