"""A whole training run on image/mask pairs: wall time per step, published schedule against this project's.

    python -m benchmarks.whole_run --pairs DIR --json

Includes everything a step costs: reading and resizing the pairs, VAE and text encoder, losses, gradients and
AdamW. The published schedule does all of it at every step; ours encodes the dataset once, and that time is
spread over the run's steps. The networks have random weights and Stable Diffusion's shape, with narrower UNet
and VAE; the learning rate does not matter. CPU, float32.

Keys: speedup (wall time per step of the run), seconds (by schedule: plain and augmented steps, the share of
encoding, and the run), encode_seconds (of the whole dataset).
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from siamese_core.architecture import LATENT_SCALE, VAEArchitecture
from siamese_core.diffusers_backend.base_model import Base, build_base
from siamese_core.diffusers_backend.networks import DHIControlNet, SiameseNetworks
from siamese_core.diffusers_backend.pair_encoding import BaseEncoder, vae_moments
from siamese_core.diffusers_backend.prompt_encoding import encode_prompts
from siamese_core.diffusers_backend.siamese_training import start_networks
from siamese_core.learning.encoded_pairs import encode_pairs, load_training_set
from siamese_core.learning.engine import SingleProcess
from siamese_core.learning.optimiser_step import Trainer
from siamese_core.learning.settings import BatchSettings, OptimiserSettings
from siamese_core.learning.training_set import image_hint, mask_hint
from siamese_core.method.noise_schedule import TRAIN_TIMESTEPS
from siamese_core.method.objective import ObjectiveSettings, TrainingBatch
from siamese_core.pairs.pair_files import Pair, find_pairs, load_pair
from siamese_core.seeds import epoch_order, generator

from .measure import argument_parser, interleaved, note, prepare
from .published import as_published, published_step
from .training_step import architecture, mean_of_run

PROMPT = "a photo of polyps"
OBJECTIVE, OPTIMISER = ObjectiveSettings(), OptimiserSettings()


class PublishedTrainer:
    """The published loop, in which every step loads and encodes its pairs and copies the networks."""

    def __init__(self, base: Base, pairs: list[Pair], resolution: int, batch_size: int) -> None:
        self.base, self.pairs, self.resolution, self.batch_size = base, pairs, resolution, batch_size
        control = DHIControlNet.initialised_from(base.unet, base.architecture)
        self.networks = SiameseNetworks.assemble(base.unet, control)
        as_published(self.networks)
        weights = self.networks.trained_parameters()
        self.optimizer = torch.optim.AdamW(weights, lr=OPTIMISER.learning_rate)

    def step(self, k: int, total_steps: int) -> None:
        published_step(self.networks, self._batch(k), OBJECTIVE, k, total_steps)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def _batch(self, k: int) -> TrainingBatch:
        rng = generator(k)
        size = (self.resolution, self.resolution)
        chosen = epoch_order(42, k, self.batch_size, len(self.pairs))
        loaded = [load_pair(self.pairs[index], size=size) for index in chosen]
        images = torch.from_numpy(np.stack([pair.image for pair in loaded])).permute(0, 3, 1, 2)
        posterior = vae_moments(self.base.vae, images.float() / 127.5 - 1.0)
        latent = (
            posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=rng)
        ) * LATENT_SCALE
        return TrainingBatch(
            latent=latent,
            noise=torch.randn(latent.shape, generator=rng),
            timesteps=torch.randint(TRAIN_TIMESTEPS, (self.batch_size,), generator=rng),
            context=encode_prompts(self.base.text_encoder, self.base.tokenizer, [PROMPT] * self.batch_size),
            mask_hint=mask_hint(torch.from_numpy(np.stack([pair.mask for pair in loaded]))),
            image_hint=image_hint(images),
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--pairs", type=Path, required=True, help="folder of pairs or prompt.json")
    parser.add_argument("--count", type=int, default=100, help="number of pairs to use")
    parser.add_argument(
        "--steps",
        type=int,
        default=3000,
        help="N, the number of steps over which the encoding time is spread",
    )
    parser.add_argument("--width", type=int, default=96, help="channels at the UNet's first level")
    parser.add_argument("--resolution", type=int, default=256, help="image side in pixels")
    parser.add_argument("--batch-size", type=int, default=6, help="pairs per step")
    parser.add_argument("--repeats", type=int, default=2, help="rounds of the comparison")
    args = parser.parse_args(arguments)
    prepare(args.threads)
    pairs = find_pairs(args.pairs, default_prompt=PROMPT)[: args.count]
    narrow_vae = VAEArchitecture(widths=(32, 64, 128, 128))
    base = build_base(replace(architecture(args.width), vae=narrow_vae, resolution=args.resolution))

    published = PublishedTrainer(copy.deepcopy(base), pairs, args.resolution, args.batch_size)
    engine = SingleProcess()
    trainer = Trainer.create(start_networks(base, "dense", 42, engine.device), OPTIMISER, engine)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        encoded = Path(folder) / "encoded"
        encode_pairs(encoded, "", BaseEncoder(base), pairs, args.resolution, default_prompt=PROMPT)
        encode_seconds = time.perf_counter() - start
        note(f"{len(pairs)} pairs encoded in {encode_seconds:.1f} s")
        data = load_training_set(encoded, "")
        assert data is not None
        batches = BatchSettings(batch_size=args.batch_size)
        step = trainer.step_function(data, OBJECTIVE, batches, OPTIMISER, args.steps, 42)

        # The first step of each, which creates the optimiser's state, is not timed.
        published.step(1, args.steps)
        step(1)
        gates = {"plain": args.steps // 6, "augmented": 2 * args.steps // 3}
        works: dict[str, Callable[[], Any]] = {}
        for name, k in gates.items():
            works[f"published {name}"] = partial(published.step, k, args.steps)
            works[f"ours {name}"] = partial(step, k)
        times = interleaved(works, args.repeats, "a step")

    seconds: dict[str, dict[str, float]] = {}
    for kind, encoding in (("published", 0.0), ("ours", encode_seconds / args.steps)):
        parts = {name: times[f"{kind} {name}"] for name in gates}
        seconds[kind] = {**parts, "encoding": encoding, "run": mean_of_run(parts) + encoding}
    result = {
        "speedup": seconds["published"]["run"] / seconds["ours"]["run"],
        "seconds": seconds,
        "encode_seconds": encode_seconds,
        **{name: getattr(args, name) for name in ("width", "resolution", "batch_size", "steps", "threads")},
        "pairs": len(pairs),
    }
    print(json.dumps(result, indent=1) if args.json else f"speedup {result['speedup']:.2f}")


if __name__ == "__main__":
    main()
