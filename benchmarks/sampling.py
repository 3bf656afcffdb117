"""Painting images for masks: this project's sampler against the published one.

    python -m benchmarks.sampling --json

Same networks, masks and seeds, float32, CPU, latents without their decoding. The published sampler paints
one image at a time, runs the hint block at every step and writes the attention's matrix; ours paints the
masks in one batch and runs the hint block once. Both have conditional and unconditional predictions in one
batch. The fewer steps, the less our single run of the hint block is spread over: the paper's 50 do better.

Keys: speedup (images a second, ours over the published, medians of runs in turns), images_per_second,
difference (largest of the latents, relative to their largest value).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from siamese_core.generation import controlled_noise_predictor, sample_latents

from .measure import interleaved, note, prepare
from .published import as_published, published_sample, random_networks
from .training_step import SIDE, architecture

GUIDANCE = 9.0


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=128, help="channels of the first level")
    parser.add_argument("--batch", type=int, default=4, help="masks")
    parser.add_argument("--steps", type=int, default=10, help="DDIM steps")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of the comparison")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    args = parser.parse_args(arguments)
    prepare(args.threads)

    rng = torch.Generator().manual_seed(1)
    hints = (torch.rand(args.batch, 1, 8 * SIDE, 8 * SIDE, generator=rng) > 0.5).float().repeat(1, 3, 1, 1)
    context, unconditional = torch.randn(2, 1, 77, 768, generator=rng).unbind()
    published, ours = (random_networks(architecture(args.width)) for _ in range(2))
    as_published(published)
    for network in (ours.control, ours.encoder, ours.decoder):
        network.to(memory_format=torch.channels_last)

    def paint_published() -> Tensor:
        paint = partial(published_sample, published, guidance_scale=GUIDANCE, steps=args.steps)
        images = [paint(hint[None], context, unconditional, seed=seed) for seed, hint in enumerate(hints)]
        return torch.cat(images)

    def paint_ours() -> Tensor:
        with torch.no_grad():
            predict = controlled_noise_predictor(
                ours,
                [(hints, 1.0)],
                context.expand(args.batch, -1, -1),
                unconditional.expand(args.batch, -1, -1),
                GUIDANCE,
            )
        return sample_latents(predict, range(args.batch), 8 * SIDE, 8 * SIDE, args.steps)

    latents = paint_published()
    difference = float((paint_ours() - latents).abs().max() / latents.abs().max())
    note(f"latents differ by at most {difference:.1e}")
    times = interleaved({"published": paint_published, "ours": paint_ours}, args.repeats, "sampling")
    rates = {name: args.batch / time for name, time in times.items()}
    result = {
        "speedup": rates["ours"] / rates["published"],
        "images_per_second": rates,
        "difference": difference,
        "width": args.width,
        "batch": args.batch,
        "steps": args.steps,
        "threads": args.threads,
    }
    print(json.dumps(result, indent=1) if args.json else f"speedup {result['speedup']:.2f}")


if __name__ == "__main__":
    main()
