"""GPU memory needed to train Stable Diffusion 1.5, estimated by counting tensors.

    python -m benchmarks.training_memory --json

A step runs on tensors without content (torch's FakeTensorMode), which needs no memory and no GPU. Counted are
all storages alive at the same time, including bfloat16 copies of weights under autocast, what the optimiser
of bfloat16 weights needs during its step, and the optimiser's state. Not counted is what exists only on a
GPU: its context (about half a GiB), kernel workspaces and fragmentation. The result is therefore a low
estimate.
"""

from __future__ import annotations

import itertools
import json
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from siamese_core.architecture import SD15, Architecture
from siamese_core.diffusers_backend.base_model import build_unet
from siamese_core.diffusers_backend.networks import DHIControlNet, SiameseNetworks
from siamese_core.learning.float32_steps import Float32Steps, hold_in_bfloat16
from siamese_core.method.noise_schedule import alphas_cumprod
from siamese_core.method.objective import ObjectiveSettings, TrainingBatch, siamese_step

from .measure import argument_parser, prepare

STATE_BYTES = {"adamw": 8, "adamw8bit": 2}
"""Bytes of optimiser state per weight: two float32 moments, or two of 8 bits."""

# The augmentation needs the values of the timesteps, which fake tensors do not have. It can be left out,
# because its branch holds at most as much memory as the mask branch before it.
SETTINGS = ObjectiveSettings(augmentation_weight=0.0)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensors created within the block, now and at most; views count as 0."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._known[leaf.untyped_storage()] = True
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known[storage] = True
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.now -= size


def step_bytes(
    batch_size: int,
    side: int,
    checkpointing: bool,
    architecture: Architecture = SD15,
    bfloat16_weights: bool = False,
) -> dict[str, int]:
    """Figures of a step on ``batch_size`` samples of ``side`` pixels.

    ``weights``: bytes of all weights of UNet and control network. ``trained``: number of trained weights.
    ``step``: peak bytes of the step above the weights, gradients included.
    """
    alphas_cumprod()  # cached now, or the cache would hold a fake tensor
    with FakeTensorMode(allow_non_fake_inputs=True):
        unet = build_unet(architecture.unet)
        control = DHIControlNet.initialised_from(unet, architecture)
        if bfloat16_weights:
            hold_in_bfloat16(unet)
            hold_in_bfloat16(control)
        networks = SiameseNetworks.assemble(unet, control)
        if checkpointing:
            networks.checkpoint_gradients()
        latent = torch.empty(batch_size, 4, side // 8, side // 8)
        hint = torch.empty(batch_size, 3, side, side)
        context = torch.empty(batch_size, 77, architecture.unet.context_dim)
        timesteps = torch.full((batch_size,), 500)
        batch = TrainingBatch(latent, latent.clone(), timesteps, context, hint, hint.clone())
        autocast = torch.autocast("cpu", torch.bfloat16, cache_enabled=not checkpointing)  # as in Trainer
        trained = networks.trained_parameters()
        # An optimiser without state, since the state is counted separately.
        optimiser = Float32Steps([{"params": trained}], partial(torch.optim.SGD, lr=0.0))
        with LiveBytes() as live:
            with autocast:
                siamese_step(networks, batch, SETTINGS, step=1, total_steps=3, backward=Tensor.backward)
            if bfloat16_weights:
                optimiser.step()
        weights = sum(weight.nbytes for weight in [*trained, *networks.encoder.parameters()])
    return {"weights": weights, "trained": sum(weight.numel() for weight in trained), "step": live.most}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--resolution", type=int, default=384, help="image side in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 3, 6], help="samples per batch")
    args = parser.parse_args(arguments)
    prepare(args.threads)
    rows = []
    ways = itertools.product(("fp32", "bf16"), (False, True), args.batches)
    for weights, checkpointing, batch_size in ways:
        counted = step_bytes(batch_size, args.resolution, checkpointing, bfloat16_weights=weights == "bf16")
        for optimiser, state in STATE_BYTES.items():
            total = counted["weights"] + state * counted["trained"] + counted["step"]
            rows.append(
                {
                    "batch_size": batch_size,
                    "gradient_checkpointing": checkpointing,
                    "weight_precision": weights,
                    "optimiser": optimiser,
                    "gib": total / 2**30,
                    **counted,
                }
            )
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        checkpointed = "checkpointing" if row["gradient_checkpointing"] else "no checkpointing"
        how = f"{checkpointed}, {row['weight_precision']} weights, {row['optimiser']}"
        print(f"{row['batch_size']} at a time, {how}: {row['gib']:.1f} GiB")


if __name__ == "__main__":
    main()
