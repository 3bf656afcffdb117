"""Connected components of a mask, found from its runs of foreground pixels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer[Any]]


class Runs(NamedTuple):
    """R horizontal runs of foreground in reading order, each (R,): ``row``, ``start``, ``end`` (exclusive).

    ``component`` is the object that each run belongs to, numbered from 0 in order of first runs.
    """

    row: Integers
    start: Integers
    end: Integers
    component: Integers


def component_runs(mask: NDArray[np.bool_]) -> Runs:
    """The runs of the (H, W) bool ``mask`` with their 8-connected components."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]  # exclusive
    # With one sorted key per (row, column), a binary search finds the runs of the next row that touch a run.
    stride = mask.shape[1] + 2
    first = np.searchsorted(rows * stride + ends, (rows + 1) * stride + starts, side="left")
    stop = np.searchsorted(rows * stride + starts, (rows + 1) * stride + ends, side="right")

    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    for run, (low, high) in enumerate(zip(first.tolist(), stop.tolist(), strict=True)):
        for neighbour in range(low, high):
            parents[root(neighbour)] = root(run)
    numbers: dict[int, int] = {}
    component = [numbers.setdefault(root(run), len(numbers)) for run in range(len(parents))]
    return Runs(rows, starts, ends, np.array(component, np.intp))
