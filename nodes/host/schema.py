"""Schema features that only newer hosts support."""

from __future__ import annotations

from collections.abc import Collection

from comfy_api.latest import io

_ALIASES = ("medical", "segmentation", "polyp", "lesion", "synthetic dataset")
"""Search terms for all nodes of the pack."""


def searchable(schema: io.Schema, aliases: Collection[str] = (), rare: Collection[str] = ()) -> io.Schema:
    """Add search ``aliases`` to ``schema`` and mark ``rare`` inputs as advanced, if the host supports it."""
    if "search_aliases" in type(schema).__dataclass_fields__:
        schema.search_aliases = [*_ALIASES, *aliases]
    for entry in schema.inputs:
        # Passed as an argument, an older host would reject it, and with it the whole pack.
        if entry.id in rare and hasattr(entry, "advanced"):
            entry.extra_dict = {**(entry.extra_dict or {}), "advanced": True}
    return schema
