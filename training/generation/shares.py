"""A worker's share of a dataset: which pairs it makes, and which of them it could not make."""

from __future__ import annotations

import re
from collections.abc import Sequence

from siamese_core.dataset_generation.finished_pairs import DatasetError
from siamese_core.dataset_generation.generation_run import Shard
from siamese_core.masks.folder_contents import Tell

from ..command_line.options import OptionError

_SHARD = re.compile(r"(\d+)/(\d+)", re.ASCII)


def parse_shard(text: str) -> Shard:
    """The share ``index/count``, whose index starts at 0. Raises OptionError."""
    match = _SHARD.fullmatch(text)
    index, count = map(int, match.groups()) if match else (0, 0)
    if not index < count:
        raise OptionError(f"--shard must be number/count with numbers from 0, such as 0/4, not {text}")
    return Shard(index, count)


def tell_skipped(reasons: Sequence[str], own: int, place: str, tell: Tell, *, is_empty: bool) -> None:
    """Tell that pairs of the dataset at ``place`` were left out, for ``reasons``, of the ``own`` of a worker.

    Raises DatasetError for a dataset that ``is_empty`` for that.
    """
    if not reasons:
        return
    told = f"{len(reasons)} of {own} pairs could not be made, the first because {reasons[0]}"
    if is_empty:
        raise DatasetError(f"{place}: {told}")
    tell(f"{told}; skipped.jsonl lists them")
