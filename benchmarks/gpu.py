"""This project against the published schedule on a GPU: training step, memory, sampling.

    python -m benchmarks.gpu --json
    python -m benchmarks.gpu --tiny

Random weights at the size of Stable Diffusion 1.5, no optimiser. Training steps are compared under the same
autocast, measured alternately. The published sampler runs in float32, one image at a time, with 50 DDIM
steps; ours runs in half precision, a batch at once, without decoding. ``--tiny`` uses small networks, and the
CPU if there is no GPU: it only checks that everything runs, and its figures mean nothing.

Keys: step (seconds per step before and after augmentation starts, seconds of a run's mean step, its speedup,
and peak_gib: measured, and for ours also counted as ``benchmarks.training_memory`` does, including weights
and gradients), sampling (images_per_second of each sampler, speedup over the published one). Memory is
measured only on CUDA.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from siamese_core.architecture import SD15, Architecture
from siamese_core.diffusers_backend.mask_sampling import (
    DEFAULT_STEPS,
    Sampler,
    controlled_noise_predictor,
    sample_latents,
)
from siamese_core.diffusers_backend.networks import SiameseNetworks
from siamese_core.method.objective import TrainingBatch

from .measure import argument_parser, interleaved, note, prepare
from .published import as_published, published_sample, random_networks
from .training_memory import step_bytes
from .training_step import STEPS, mean_of_run, networks_of_kind, random_batch, run_step

KINDS = ("published", "fast", "lean")
GUIDANCE = 9.0
_TINY = replace(SD15, unet=replace(SD15.unet, widths=(32, 64), layers_per_block=1))


def to_device(batch: TrainingBatch, device: torch.device) -> TrainingBatch:
    """``batch`` on ``device``, with timesteps also on the CPU, as in a training run."""
    found = {item.name: getattr(batch, item.name) for item in fields(batch)}
    moved = {name: tensor.to(device) for name, tensor in found.items() if tensor is not None}
    return TrainingBatch(**{**moved, "host_timesteps": batch.timesteps})


def on_device(networks: SiameseNetworks, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
    """Move ``networks`` in place, in channels-last format as in training and generation on a GPU."""
    for module in (networks.control, networks.encoder, networks.decoder):
        nn.Module.to(module, device, dtype)
        module.to(memory_format=torch.channels_last)
    networks.shadow = networks.decoder.shadow()


def waited(work: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """``work`` followed by a synchronisation with ``device``."""

    def run() -> Any:
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return result

    return run


def compare_steps(
    architecture: Architecture, device: torch.device, side: int, repeats: int
) -> dict[str, Any]:
    """Figures of a training step at ``side`` pixels for each kind of schedule."""
    batch = to_device(random_batch(side // 8), device)
    figures: dict[str, dict[str, Any]] = {}
    for kind in KINDS:  # one after the other, since a GPU may not hold all of them
        networks = networks_of_kind(kind, architecture)
        on_device(networks, device)

        def step(k: int, networks: SiameseNetworks = networks, kind: str = kind) -> None:
            half = device.type == "cuda"  # half precision would slow a CPU down
            with torch.autocast(device.type, torch.bfloat16, half, cache_enabled=kind == "fast"):
                run_step(kind, networks, batch, k)

        works = {name: waited(partial(step, k), device) for name, k in STEPS.items()}
        for work in works.values():
            work()
        peak = _peak_gib(list(works.values()), device)
        seconds = interleaved(works, repeats, kind)
        figures[kind] = {"seconds": {**seconds, "run": mean_of_run(seconds)}, "peak_gib": peak}
        if kind != "published":
            counted = step_bytes(len(batch.timesteps), side, kind == "lean", architecture)
            figures[kind]["counted_gib"] = (counted["weights"] + counted["step"]) / 2**30
        del networks, works, step
    for kind in KINDS[1:]:
        published = figures["published"]["seconds"]["run"]
        figures[kind]["speedup"] = published / figures[kind]["seconds"]["run"]
    return figures


def compare_sampling(
    architecture: Architecture, device: torch.device, batch: int, side: int, repeats: int, tiny: bool
) -> dict[str, Any]:
    """Images per second of the published sampler and of ours, without decoding."""
    rng = torch.Generator().manual_seed(1)
    hints = (torch.rand(batch, 1, side, side, generator=rng) > 0.5).float().repeat(1, 3, 1, 1).to(device)
    text = torch.randn(2, 1, 77, architecture.unet.context_dim, generator=rng).to(device)
    steps = dict.fromkeys(DEFAULT_STEPS, 2) if tiny else DEFAULT_STEPS
    published, half = random_networks(architecture), random_networks(architecture)
    as_published(published)
    on_device(published, device)
    on_device(half, device, torch.float16 if device.type == "cuda" else torch.float32)

    def theirs() -> Tensor:
        return published_sample(published, hints[:1], text[0], text[1], GUIDANCE, 0, steps["ddim"])

    @torch.no_grad()
    def ours(sampler: Sampler) -> Tensor:
        predict = controlled_noise_predictor(
            half, [(hints, 1.0)], text[0], text[1], GUIDANCE, shares_text=True
        )
        return sample_latents(
            predict, range(batch), side, side, steps[sampler], device=device, sampler=sampler
        )

    works = {"published": waited(theirs, device)}
    works |= {sampler: waited(partial(ours, sampler), device) for sampler in DEFAULT_STEPS}
    for work in works.values():
        work()
    seconds = interleaved(works, repeats, "sampling")
    rates = {name: (1 if name == "published" else batch) / time for name, time in seconds.items()}
    return {
        "images_per_second": rates,
        "speedup": {sampler: rates[sampler] / rates["published"] for sampler in DEFAULT_STEPS},
    }


def _peak_gib(works: Sequence[Callable[[], Any]], device: torch.device) -> float | None:
    """Peak GPU memory of tensors during ``works`` in GiB; None without a GPU."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    for work in works:
        work()
    return torch.cuda.max_memory_allocated(device) / 2**30


def as_text(result: dict[str, Any]) -> str:
    """The figures as a text table."""
    lines = ["step, s       before  after  a run's mean  speedup  GiB (counted)"]
    for kind, figures in result["step"].items():
        times = "  ".join(f"{figures['seconds'][name]:.3f}" for name in (*STEPS, "run"))
        measured = "-" if figures["peak_gib"] is None else f"{figures['peak_gib']:.1f}"
        counted = f"({figures['counted_gib']:.1f})" if "counted_gib" in figures else ""
        lines.append(f"{kind:12s} {times}  {figures.get('speedup', 1.0):.2f} x  {measured} {counted}")
    lines.append("sampling, images/s")
    for name, rate in result["sampling"]["images_per_second"].items():
        lines.append(f"{name:12s} {rate:.3f}  {result['sampling']['speedup'].get(name, 1.0):.2f} x")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--tiny", action="store_true", help="small networks; run on the CPU if there is no GPU"
    )
    parser.add_argument("--batch", type=int, default=4, help="images sampled at once")
    parser.add_argument("--side", type=int, default=384, help="side of the images in pixels")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of each comparison")
    args = parser.parse_args(arguments)
    if not (args.tiny or torch.cuda.is_available()):
        parser.error("there is no CUDA device here; --tiny runs small networks on the CPU")
    prepare(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    note(f"on {name}")
    architecture, side = (_TINY, 64) if args.tiny else (SD15, args.side)
    result = {
        "device": name,
        "torch": torch.__version__,
        "step": compare_steps(architecture, device, side, args.repeats),
        "sampling": compare_sampling(architecture, device, args.batch, side, args.repeats, args.tiny),
    }
    print(json.dumps(result, indent=1) if args.json else as_text(result))


if __name__ == "__main__":
    main()
