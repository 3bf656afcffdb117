"""What Generate Dataset says when its folder holds a dataset that was begun with other settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..siamese_core.dataset_generation.finished_pairs import DatasetLists
from ..siamese_core.dataset_generation.mask_source import MaskSource
from ..siamese_core.resume_check import Difference

_SHOWN, _LONGEST = 4, 80
_DIGEST = re.compile(r"[0-9a-f]{64}")
_WIDGETS = {
    "name": "sampler_name",
    "guidance": "cfg",
    "mask_threshold": "threshold",
    "mask_label": "label",
    "mask_invert": "invert",
    "transforms": "Random Mask Transform",
    "transform_seed": "the seed of Random Mask Transform",
    "threads": "the number of CPU threads",
    "checkpoint": "the model file",
    "nodes_before": "a node before this one (which, an earlier version of the pack did not note)",
}
_FOLLOWING = {"pairs": "masks", "run_id": "checkpoint", "transform_seed": "seed"}
"""Entries that change with another one: without Random Mask Transform its seed is the node's own."""


def other_settings(
    folder: str, differences: Sequence[Difference], source: MaskSource, lists: DatasetLists
) -> str:
    """The sentence that names what differs; ``lists`` are those of the dataset that is there."""
    known = {one.key: one for one in differences}
    told = [one for one in differences if not _follows(one, known)]
    told.sort(key=_rank)
    parts = [_told(one, source, lists) for one in told[:_SHOWN]]
    more = f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    return (
        f"The folder '{folder}' holds a dataset that was begun with other settings: {'; '.join(parts)}"
        f"{more}. Put that back to resume the dataset, or give another folder."
    )


def _rank(one: Difference) -> int:
    """Own widgets come first, then the model file, what the node is connected to, and the nodes behind."""
    if not one.key.startswith("nodes."):
        return 1 if one.key == "checkpoint" else 0
    return 3 if "." in one.key.partition(".")[2] else 2


def _follows(one: Difference, known: Mapping[str, Difference]) -> bool:
    """Whether ``one`` differs because another one does, which says more."""
    first = known.get(_FOLLOWING.get(one.key, ""))
    if first is None or one.key != "transform_seed":
        return first is not None
    return (first.old, first.new) == (one.old, one.new)


def _told(one: Difference, source: MaskSource, lists: DatasetLists) -> str:
    if one.key == "masks":
        return _changed_masks(source, lists)
    return f"{_name(one.key)} was {_value(one.old)} and is now {_value(one.new)}"


def _name(key: str) -> str:
    room, _, rest = key.partition(".")
    if room == "nodes" and rest.startswith("content of "):
        return f"the {rest}"
    if room == "nodes":
        node, _, name = rest.partition(".")
        return f"'{name}' of {node}" if name else f"'{node}'"
    if room == "transforms" and rest:
        return f"'{rest}' of Random Mask Transform"
    return _WIDGETS.get(key, f"'{key}'") if " " in _WIDGETS.get(key, "") else f"'{_WIDGETS.get(key, key)}'"


def _value(value: Any) -> str:
    if value is None:
        return "absent"
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return f"{value[:8]}..."
    if isinstance(value, list) and len(value) == 2:  # a link
        return f"output {value[1]} of {value[0]}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _changed_masks(source: MaskSource, lists: DatasetLists) -> str:
    known = {line["mask_file"]: line["mask_digest"] for line in lists.lines() if "mask_file" in line}
    present = source.digests
    for name, digest in known.items():
        if name not in present:
            return f"the mask '{name}' is no longer there"
        if present[name] != digest:
            return f"the mask '{name}' was {_value(digest)} and is now {_value(present[name])}"
    return f"the mask files are others ({len(present)} now)"
