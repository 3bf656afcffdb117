"""One training step: this project's schedule against the published one.

    python -m benchmarks.training_step --json

Same networks, same batch (five samples, one at t <= 200), float32, CPU, losses and gradients only. The
published schedule (see benchmarks/published.py) is compared with ours, ``fast`` and ``lean`` (with gradient
checkpointing). A run spends a third of its steps without augmentation and two thirds with it.

Keys for each width, for ``fast`` at the top level and again under ``lean``: speedup (of a run),
speedup_plain, speedup_augmented (published time over ours, ratios of medians of steps measured alternately),
memory_ratio (peak resident memory of a run above the resident model, ours over the published). The top level
has the lower speedup and the higher memory of all widths. difference: largest relative difference of loss and
gradients from the published schedule's. flops and peak_share, the share of the machine's best rate;
kinds_share is the same for the time that the step's convolutions and matrix products would take at the best
rate of each, measured now (peak_flops_by_kind). ``alone``: seconds, flops and shares of ours at Stable
Diffusion 1.5's width, where the published schedule takes too long (15 GB of memory; --own-widths without a
number leaves it out).
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from siamese_core.architecture import Architecture, UNetArchitecture
from siamese_core.diffusers_backend.networks import SiameseNetworks
from siamese_core.method.objective import ObjectiveSettings, TrainingBatch, siamese_step

from .measure import (
    argument_parser,
    count_flops,
    interleaved,
    note,
    peak_bytes,
    peak_rates,
    prepare,
    resident_bytes,
)
from .published import as_published, published_step, random_networks

SIDE = 32  # side of the latents
TIMESTEPS = (100, 400, 500, 700, 900)
TOTAL_STEPS = 30
STEPS = {"plain": 5, "augmented": 20}  # k before and after the gate at a third
KINDS = ("published", "fast", "lean")
SETTINGS = ObjectiveSettings()


def architecture(width: int) -> Architecture:
    """Stable Diffusion 1.x topology with a first width of ``width`` channels."""
    return Architecture(unet=UNetArchitecture(widths=(width, 2 * width, 4 * width, 4 * width)))


def random_batch(side: int = SIDE) -> TrainingBatch:
    """Five samples with latents of ``side`` x ``side``."""
    rng = torch.Generator().manual_seed(1)
    count = len(TIMESTEPS)
    mask = torch.rand(count, 1, 8 * side, 8 * side, generator=rng) > 0.5
    return TrainingBatch(
        latent=torch.randn(count, 4, side, side, generator=rng),
        noise=torch.randn(count, 4, side, side, generator=rng),
        timesteps=torch.tensor(TIMESTEPS),
        context=torch.randn(count, 77, 768, generator=rng),
        mask_hint=mask.expand(-1, 3, -1, -1).float(),
        image_hint=torch.rand(count, 3, 8 * side, 8 * side, generator=rng),
    )


def networks_of_kind(kind: str, architecture: Architecture) -> SiameseNetworks:
    """Random networks configured for ``kind`` of :data:`KINDS`."""
    networks = random_networks(architecture)
    if kind == "published":
        as_published(networks)
    elif kind == "lean":
        networks.checkpoint_gradients()
    return networks


def run_step(kind: str, networks: SiameseNetworks, batch: TrainingBatch, step: int) -> Tensor:
    """Compute losses and gradients of training step k and return the loss."""
    for parameter in networks.trained_parameters():
        parameter.grad = None
    if kind == "published":
        return published_step(networks, batch, SETTINGS, step, TOTAL_STEPS)
    return siamese_step(networks, batch, SETTINGS, step, TOTAL_STEPS, Tensor.backward).loss


def peak_memory(kind: str, width: int, threads: int) -> int:
    """Peak bytes of a run's steps above the networks' weights; call it in a fresh process."""
    prepare(threads)
    networks, batch = networks_of_kind(kind, architecture(width)), random_batch()
    resident = resident_bytes()
    return max(peak_bytes(partial(run_step, kind, networks, batch, k)) for k in STEPS.values()) - resident


def compare(width: int, repeats: int, threads: int) -> dict[str, Any]:
    """The figures for one width."""
    context = multiprocessing.get_context("spawn")
    memory = {}
    for kind in KINDS:
        with context.Pool(1) as pool:  # a fresh process each, since freed memory would distort the next
            memory[kind] = pool.apply(peak_memory, (kind, width, threads))
        note(f"width {width}, {kind}: {memory[kind] / 2**20:.0f} MiB above the model")

    batch = random_batch()
    networks = {kind: networks_of_kind(kind, architecture(width)) for kind in KINDS}
    flops: dict[str, dict[str, dict[str, int]]] = {kind: {} for kind in KINDS}
    difference = 0.0
    for name, k in STEPS.items():
        results = {}
        for kind in KINDS:
            loss, flops[kind][name] = count_flops(partial(run_step, kind, networks[kind], batch, k))
            results[kind] = [loss, *_gradients(networks[kind])]
        difference = max(
            difference, *(_difference(results[kind], results["published"]) for kind in KINDS[1:])
        )
        note(f"width {width}, {name}: losses and gradients differ by at most {difference:.1e}")

    works: dict[str, Callable[[], Any]] = {
        f"{kind} {name}": partial(run_step, kind, networks[kind], batch, k)
        for name, k in STEPS.items()
        for kind in KINDS
    }
    times = interleaved(works, repeats, f"width {width}")
    rates = peak_rates()
    figures: dict[str, Any] = {}
    for kind in KINDS:
        time = {name: times[f"{kind} {name}"] for name in STEPS}
        figures[kind] = {**rate_figures(time, flops[kind], rates), "memory_bytes": memory[kind]}
    for kind in KINDS[1:]:
        published, ours = figures["published"]["seconds"], figures[kind]["seconds"]
        figures[kind] |= {
            "speedup": published["run"] / ours["run"],
            "speedup_plain": published["plain"] / ours["plain"],
            "speedup_augmented": published["augmented"] / ours["augmented"],
            "memory_ratio": memory[kind] / memory["published"],
        }
    return {"difference": difference, **peak_figures(rates), **figures}


def alone(width: int, repeats: int) -> dict[str, Any]:
    """Times, operations and rates of our own kinds of steps at one width."""
    batch = random_batch()
    figures: dict[str, Any] = {}
    for kind in KINDS[1:]:
        networks = networks_of_kind(kind, architecture(width))
        works: dict[str, Callable[[], Tensor]] = {
            name: partial(run_step, kind, networks, batch, k) for name, k in STEPS.items()
        }
        flops = {name: count_flops(work)[1] for name, work in works.items()}
        times = interleaved(works, repeats, f"width {width}, {kind}")
        rates = peak_rates()
        figures[kind] = {**rate_figures(times, flops, rates), **peak_figures(rates)}
        del networks, works
    return figures


def peak_figures(rates: dict[str, float]) -> dict[str, Any]:
    """The machine's best rate overall and for each kind of operation."""
    return {"peak_flops": max(rates.values()), "peak_flops_by_kind": rates}


def rate_figures(
    times: dict[str, float], flops: dict[str, dict[str, int]], rates: dict[str, float]
) -> dict[str, Any]:
    """Seconds and operations of each step and of a run's mean step, and their share of the peak ``rates``."""
    total = {name: sum(counts.values()) for name, counts in flops.items()}
    ideal = {
        name: sum(count / rates[kind] for kind, count in counts.items()) for name, counts in flops.items()
    }
    return {
        "seconds": {**times, "run": mean_of_run(times)},
        "flops": {**total, "run": mean_of_run(total)},
        "peak_share": mean_of_run(total) / mean_of_run(times) / max(rates.values()),
        "kinds_share": mean_of_run(ideal) / mean_of_run(times),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--widths", type=int, nargs="+", default=[96, 192], help="channels at the first level"
    )
    parser.add_argument(
        "--own-widths",
        type=int,
        nargs="*",
        default=[320],
        help="widths at which only our implementation is timed",
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds of the comparison")
    args = parser.parse_args(arguments)
    prepare(args.threads)
    widths = {width: compare(width, args.repeats, args.threads) for width in args.widths}
    own = {width: alone(width, args.repeats) for width in args.own_widths}
    summary = {kind: _summary([figures[kind] for figures in widths.values()]) for kind in KINDS[1:]}
    result = {**summary["fast"], "lean": summary["lean"], "threads": args.threads, "widths": widths}
    result["alone"] = own
    if args.json:
        print(json.dumps(result, indent=1))
        return
    for kind, figures in summary.items():
        print(kind, ", ".join(f"{name} {value:.2f}" for name, value in figures.items()))
    for width, by_kind in {**widths, **own}.items():
        for kind in KINDS[1:]:
            shares = (f"{name} {by_kind[kind][name]:.2f}" for name in ("peak_share", "kinds_share"))
            print(f"width {width}, {kind}:", ", ".join(shares))


def _summary(figures: list[dict[str, Any]]) -> dict[str, float]:
    """The worst value of each figure over the widths."""
    worst = {"speedup": min, "speedup_plain": min, "speedup_augmented": min, "memory_ratio": max}
    return {name: pick(found[name] for found in figures) for name, pick in worst.items()}


def mean_of_run(figures: Mapping[str, float]) -> float:
    """Mean over a run, in which a third of the steps is before the gate of the augmentation."""
    return (figures["plain"] + 2 * figures["augmented"]) / 3


def _gradients(networks: SiameseNetworks) -> list[Tensor]:
    return [weight.grad for weight in networks.trained_parameters() if weight.grad is not None]


def _difference(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Largest absolute difference, relative to the largest value of each tensor in ``wanted``."""
    pairs = zip(found, wanted, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in pairs)


if __name__ == "__main__":
    main()
