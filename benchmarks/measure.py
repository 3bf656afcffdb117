"""Tools for benchmarks: timing, peak memory, operation counts, and this machine's peak rate."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from torch.utils import flop_counter

from siamese_core.cpu_memory import return_freed_memory

T = TypeVar("T")

_SHAPE = 1024  # side of the matrices for the peak rate
_CONVOLUTION = (8, 256, 32)  # batch, channels and side of the convolution for the peak rate


def argument_parser(doc: str | None, threads: int = torch.get_num_threads()) -> argparse.ArgumentParser:
    """A parser with the flags that all benchmarks have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=threads, help="CPU threads")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    return parser


def prepare(threads: int) -> None:
    """Configure this process for a measurement."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # as the training loop does


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(works: Mapping[str, Callable[[], Any]], repeats: int, what: str) -> dict[str, float]:
    """Median wall seconds of each of ``works``, run alternately ``repeats`` times; callers warm up first."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats):
        for name, work in works.items():
            times[name].append(seconds(work))
            note(f"{what}, round {repeat + 1} of {repeats}, {name}: {times[name][-1]:.2f} s")
    return {name: median(values) for name, values in times.items()}


def note(text: str) -> None:
    """Print a line of progress to stderr, apart from the results."""
    print(text, file=sys.stderr, flush=True)


def resident_bytes() -> int:
    """Resident memory of this process after returning free blocks to the system. Linux only."""
    return_freed_memory()
    return _status("VmRSS")


def peak_bytes(work: Callable[[], Any]) -> int:
    """Peak resident memory of this process while ``work`` runs. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    work()
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def count_flops(work: Callable[[], T]) -> tuple[T, dict[str, int]]:
    """The result of one call and its floating-point operations, by kind.

    Kinds are ``convolution`` and ``product`` (of matrices, including attention).
    """
    aten = torch.ops.aten
    # PyTorch's counter does not know the CPU's attention kernels.
    attention = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
    }
    with flop_counter.FlopCounterMode(display=False, custom_mapping=attention) as counter:
        result = work()
    flops = {"convolution": 0, "product": 0}
    for operation, count in counter.get_flop_counts()["Global"].items():
        flops["convolution" if "convolution" in str(operation) else "product"] += count
    return result, flops


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return flop_counter.sdpa_flop_count(query, key, value)


def _attention_backward_flops(
    gradient: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return flop_counter.sdpa_backward_flop_count(gradient, query, key, value)


def peak_rates() -> dict[str, float]:
    """Operations per second that this machine currently reaches, for ``product`` and ``convolution``."""
    square = torch.randn(_SHAPE, _SHAPE)
    batch, channels, side = _CONVOLUTION
    pixels, kernel = torch.randn(batch, channels, side, side), torch.randn(channels, channels, 3, 3)
    works: dict[str, tuple[Callable[[], Any], float]] = {
        "product": (lambda: square @ square, 2.0 * _SHAPE**3),
        "convolution": (
            lambda: torch.conv2d(pixels, kernel, padding=1),
            2.0 * batch * (channels * side * 3) ** 2,
        ),
    }
    rates = {}
    for name, (work, flops) in works.items():
        work()
        rates[name] = flops / min(seconds(work) for _ in range(5))
    return rates
