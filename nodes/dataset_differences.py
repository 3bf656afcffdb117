"""Generate Dataset's message when its folder holds a dataset begun with other settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..siamese_core.dataset_generation.finished_pairs import DatasetLists
from ..siamese_core.dataset_generation.mask_source import MaskSource
from ..siamese_core.resume_check import Difference
from .host.differences import told_change, told_changes, told_value, without_followers

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
    "backgrounds": "the content of the background",
    "nodes_before": "a node before this one (which, an earlier version of the pack did not note)",
}
_FOLLOWING = {"pairs": ("masks",), "run_id": ("checkpoint",)}


def other_settings(
    folder: str, differences: Sequence[Difference], source: MaskSource, lists: DatasetLists
) -> str:
    """A sentence that names the differences; ``lists`` are those of the existing dataset."""
    known = {one.key: one for one in differences}
    told = [one for one in without_followers(differences, _FOLLOWING) if not _is_the_seed(one, known)]
    parts = [_told(one, source, lists) for one in sorted(told, key=_rank)]
    return (
        f"The folder '{folder}' holds a dataset that was begun with other settings: {told_changes(parts)}. "
        "Put that back to resume the dataset, or give another folder."
    )


def _rank(one: Difference) -> int:
    """Sort order: own widgets, then the model file, direct connections, and finally nodes further up."""
    if not one.key.startswith("nodes."):
        return 1 if one.key == "checkpoint" else 0
    return 3 if "." in one.key.partition(".")[2] else 2


def _is_the_seed(one: Difference, known: Mapping[str, Difference]) -> bool:
    """Whether ``one`` repeats the seed: without Random Mask Transform its seed is the node's own."""
    seed = known.get("seed")
    return one.key == "transform_seed" and seed is not None and (seed.old, seed.new) == (one.old, one.new)


def _told(one: Difference, source: MaskSource, lists: DatasetLists) -> str:
    if one.key == "masks":
        return _changed_masks(source, lists)
    return told_change(_name(one.key), one)


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


def _changed_masks(source: MaskSource, lists: DatasetLists) -> str:
    known = {line["mask_file"]: line["mask_digest"] for line in lists.lines() if "mask_file" in line}
    present = source.digests
    for name, digest in known.items():
        if name not in present:
            return f"the mask '{name}' is no longer there"
        if present[name] != digest:
            return f"the mask '{name}' was {told_value(digest)} and is now {told_value(present[name])}"
    return f"the mask files are others ({len(present)} now)"
