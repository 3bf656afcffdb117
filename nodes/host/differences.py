"""Describing the differences between a run's record and a node's settings, for the page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...siamese_core.resume_check import Difference

_SHOWN, _LONGEST = 4, 80
_DIGEST = re.compile(r"[0-9a-f]{64}")
_WHEN_ABSENT: Mapping[str, Any] = {
    "mask_label": 0,
    "mask_invert": False,
    "transforms.beyond": "background",
}
"""Widget values that correspond to a missing or None entry of a record."""


def told_changes(parts: Sequence[str]) -> str:
    """The first few of ``parts`` and the number of the others."""
    more = f"; and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return "; ".join(parts[:_SHOWN]) + more


def told_change(name: str, one: Difference) -> str:
    old, new = (_WHEN_ABSENT.get(one.key) if value is None else value for value in (one.old, one.new))
    return f"{name} was {told_value(old)} and is now {told_value(new)}"


def told_value(value: Any) -> str:
    """A short text for the ``value`` of a record."""
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
    """``differences`` without those implied by another, more informative one.

    ``following`` maps an entry's key to the keys of entries that imply its change.
    """
    known = {one.key for one in differences}
    return [one for one in differences if known.isdisjoint(following.get(one.key, ()))]
