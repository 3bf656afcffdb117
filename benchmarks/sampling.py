"""Generating images for masks: this project's sampler against the published one.

    python -m benchmarks.sampling --json
    python -m benchmarks.sampling --sampler dpmpp-2m --steps 15 --published-steps 50 --json

Same networks, masks and seeds, float32, CPU, latents without decoding. The published sampler generates one
image at a time, runs the hint block at every step and stores the attention matrix. Ours generates all masks
in one batch, runs the hint block once, and keeps freed memory as ``training.generate`` does; for that, each
sampler runs in its own process, and they alternate. Both compute conditional and unconditional predictions in
one batch. With fewer steps our single run of the hint block weighs more: the paper's 50 give a higher
speedup. ``benchmarks.sampler_quality`` shows what fewer steps of another sampler cost.

Keys: speedup (images per second, ours over the published, ratio of medians), speedup_without_kept_memory
(ours with the C library's default allocator settings), images_per_second, difference (largest difference of
the latents, relative to their largest value; only if both use the same steps).
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from siamese_core.cpu_memory import keep_freed_memory
from siamese_core.diffusers_backend.mask_sampling import (
    DEFAULT_STEPS,
    Sampler,
    controlled_noise_predictor,
    sample_latents,
    steps_in_words,
)

from .measure import argument_parser, interleaved, note, prepare
from .published import as_published, published_sample, random_networks
from .training_step import SIDE, architecture

GUIDANCE = 9.0
_OWN_STEPS: dict[Sampler, int] = {**DEFAULT_STEPS, "ddim": 10}
KINDS = ("published", "ours", "ours without kept memory")

_sample: Callable[[], Tensor]  # this process's sampler, set by `set_up`


def set_up(kind: str, width: int, batch: int, sampler: Sampler, steps: int, threads: int) -> None:
    """Prepare this process to sample ``batch`` masks with the sampler ``kind``."""
    global _sample
    prepare(threads)
    networks = random_networks(architecture(width))
    rng = torch.Generator().manual_seed(1)
    hints = (torch.rand(batch, 1, 8 * SIDE, 8 * SIDE, generator=rng) > 0.5).float().repeat(1, 3, 1, 1)
    context, unconditional = torch.randn(2, 1, 77, 768, generator=rng).unbind()
    if kind == "published":
        as_published(networks)
        _sample = partial(_sample_published, networks, hints, context, unconditional, steps)
        return
    if kind == "ours":
        keep_freed_memory()
    for network in (networks.control, networks.encoder, networks.decoder):
        network.to(memory_format=torch.channels_last)
    _sample = partial(_sample_ours, networks, hints, context, unconditional, sampler, steps)


def sample() -> Tensor:
    """The latents of all masks."""
    return _sample()


def _sample_published(
    networks: Any, hints: Tensor, context: Tensor, unconditional: Tensor, steps: int
) -> Tensor:
    one = partial(published_sample, networks, guidance_scale=GUIDANCE, steps=steps)
    return torch.cat([one(hint[None], context, unconditional, seed=seed) for seed, hint in enumerate(hints)])


def _sample_ours(
    networks: Any, hints: Tensor, context: Tensor, unconditional: Tensor, sampler: Sampler, steps: int
) -> Tensor:
    count = len(hints)
    context, unconditional = context.expand(count, -1, -1), unconditional.expand(count, -1, -1)
    with torch.no_grad():
        predict = controlled_noise_predictor(networks, [(hints, 1.0)], context, unconditional, GUIDANCE)
    side = 8 * SIDE
    return sample_latents(predict, range(count), side, side, steps, device="cpu", sampler=sampler)


def _steps(sampler: Sampler, steps: int | None, published: int | None) -> tuple[int, int]:
    """The numbers of steps of our sampler and of the published one."""
    if sampler == "ddim":
        own = steps or published or _OWN_STEPS[sampler]
        return own, published or own
    return steps or _OWN_STEPS[sampler], published or DEFAULT_STEPS["ddim"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--width", type=int, default=128, help="channels at the first level")
    parser.add_argument("--batch", type=int, default=4, help="masks per batch")
    parser.add_argument(
        "--sampler", choices=DEFAULT_STEPS, default="ddim", help="our sampler; the published one is ddim"
    )
    parser.add_argument(
        "--steps", type=int, help=f"our sampling steps; default: {steps_in_words(_OWN_STEPS)}"
    )
    parser.add_argument(
        "--published-steps",
        type=int,
        help="the published sampler's steps; default: the same as ours if ours is ddim, otherwise 50",
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds of the comparison")
    args = parser.parse_args(arguments)
    steps, published_steps = _steps(args.sampler, args.steps, args.published_steps)

    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        runs: dict[str, Callable[[], Any]] = {}
        for kind in KINDS:
            how = ("ddim", published_steps) if kind == "published" else (args.sampler, steps)
            settings = (kind, args.width, args.batch, *how, args.threads)
            runs[kind] = partial(stack.enter_context(context.Pool(1, set_up, settings)).apply, sample)
        compared = {}  # without it nothing is warmed up, which takes minutes: the median drops a cold round
        if args.sampler == "ddim" and steps == published_steps:
            latents = {kind: run() for kind, run in runs.items()}
            wanted = latents["published"]
            compared["difference"] = float((latents["ours"] - wanted).abs().max() / wanted.abs().max())
            note(f"latents differ by at most {compared['difference']:.1e}")
        times = interleaved(runs, args.repeats, "sampling")
    result = {
        "speedup": times["published"] / times["ours"],
        "speedup_without_kept_memory": times["published"] / times["ours without kept memory"],
        "images_per_second": {kind: args.batch / time for kind, time in times.items()},
        **compared,
        **{name: getattr(args, name) for name in ("width", "batch", "sampler", "threads")},
        "steps": steps,
        "published_steps": published_steps,
    }
    print(json.dumps(result, indent=1) if args.json else f"speedup {result['speedup']:.2f}")


if __name__ == "__main__":
    main()
