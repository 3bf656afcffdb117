"""What newer hosts know of a schema and older ones do not."""

from __future__ import annotations

from collections.abc import Collection

from comfy_api.latest import io

_ALIASES = ("medical", "segmentation", "polyp", "lesion", "synthetic dataset")
"""What people search for who want any of these nodes."""


def searchable(schema: io.Schema, aliases: Collection[str] = (), rare: Collection[str] = ()) -> io.Schema:
    """``schema`` found under ``aliases``, with the inputs ``rare`` folded away, as far as the host can."""
    if "search_aliases" in type(schema).__dataclass_fields__:
        schema.search_aliases = [*_ALIASES, *aliases]
    for entry in schema.inputs:
        # As an argument an older host would refuse it, and with one schema the whole pack.
        if entry.id in rare and hasattr(entry, "advanced"):
            entry.extra_dict = {**(entry.extra_dict or {}), "advanced": True}
    return schema
