"""In what the record of a run and the settings of a node differ, in words for the page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...siamese_core.resume_check import Difference

_SHOWN, _LONGEST = 4, 80
_DIGEST = re.compile(r"[0-9a-f]{64}")
_WHEN_ABSENT: Mapping[str, Any] = {"mask_label": 0, "mask_invert": False}
"""What a widget shows where a record says nothing, or None."""


def told_changes(parts: Sequence[str]) -> str:
    """The first few of ``parts``, and how many there are besides."""
    more = f"; and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return "; ".join(parts[:_SHOWN]) + more


def told_change(name: str, one: Difference) -> str:
    old, new = (_WHEN_ABSENT.get(one.key) if value is None else value for value in (one.old, one.new))
    return f"{name} was {told_value(old)} and is now {told_value(new)}"


def told_value(value: Any) -> str:
    """``value`` of a record, in short."""
    if value is None:
        return "absent"
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return f"{value[:8]}..."
    if isinstance(value, list) and len(value) == 2:  # a link
        return f"output {value[1]} of {value[0]}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def without_followers(
    differences: Sequence[Difference], following: Mapping[str, Sequence[str]]
) -> list[Difference]:
    """``differences`` but for entries that change with another one, which says more.

    ``following``: for the key of an entry those of the entries that it changes with.
    """
    known = {one.key for one in differences}
    return [one for one in differences if known.isdisjoint(following.get(one.key, ()))]
