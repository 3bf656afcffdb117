"""The segmentation networks by name, each with the settings it is published with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from siamese_core.errors import UserError
from siamese_core.seeds import stream_seed

from .ctnet import CTNet
from .interface import STRIDE, SegmentationNetwork
from .plain_unet import PlainUNet
from .polyp_pvt import PolypPVT
from .pretrained_weights import load_weights
from .sanet import SANet
from .smp_networks import segformer, small_unet, unet


class NetworkError(UserError):
    """A network that cannot be built as asked; the message says what to give instead."""


@dataclass(frozen=True)
class NetworkInfo:
    """A network and its published training.

    ``build(pretrained=...)`` makes it with ImageNet weights in its backbone or with random ones, drawn from
    PyTorch's global generator. ``parameters`` (millions) is what its authors or their code amount to, None
    where there is no single published figure. ``backbone_rate`` is the backbone's learning rate as a share
    of ``learning_rate``; ``resolution`` is the side that images are stretched to, in pixels. Without
    ``has_backbone`` there are no ImageNet weights to start from.
    """

    build: Callable[..., SegmentationNetwork]
    optimiser: Literal["sgd", "adam", "adamw"]
    learning_rate: float
    weight_decay: float
    batch_size: int
    epochs: int
    resolution: int
    parameters: float | None
    backbone_rate: float = 1.0
    stride: int = STRIDE
    has_backbone: bool = True


NETWORKS: Mapping[str, NetworkInfo] = {
    # Neither paper trains on endoscopy: rate and decay are customary (U-Net) or the paper's (SegFormer),
    # batch size, epochs and resolution those of the polyp networks.
    "unet": NetworkInfo(unet, "adamw", 1e-4, 1e-4, 16, 100, 352, None),
    # Nothing of it is pretrained: a higher rate than that of fine-tuning.
    "plain-unet": NetworkInfo(
        lambda *, pretrained: PlainUNet(), "adamw", 1e-3, 1e-4, 16, 100, 352, None, has_backbone=False
    ),
    "segformer": NetworkInfo(segformer, "adamw", 6e-5, 1e-2, 16, 100, 352, 27.35),
    "small-unet": NetworkInfo(small_unet, "adamw", 3e-3, 1e-2, 8, 60, 128, None),
    # SGD with Nesterov momentum 0.9.
    "sanet": NetworkInfo(SANet, "sgd", 0.4, 5e-4, 64, 128, 352, 23.90, backbone_rate=0.1),
    "polyp-pvt": NetworkInfo(PolypPVT, "adamw", 1e-4, 1e-4, 16, 100, 352, 25.11),
    "ctnet": NetworkInfo(CTNet, "adamw", 1e-4, 1e-4, 16, 32, 352, 44.29),
}
"""By the name that ``--network`` takes."""


def weights_by_network(entries: Sequence[str], networks: Sequence[str]) -> dict[str, Path]:
    """The files of ``NETWORK=FILE`` by network; ``FILE`` alone is for the only one of the ``networks``.

    Raises NetworkError for a file whose network is not told or not among these, and for one that is missing.
    """
    found: dict[str, Path] = {}
    for entry in entries:
        name, is_named, file = entry.partition("=")
        if not is_named or Path(entry).exists():
            if len(networks) > 1:
                raise NetworkError(
                    f"--weights {entry} does not say for which of {', '.join(networks)}; give NETWORK=FILE, "
                    "one for each network that has a file"
                )
            name, file = networks[0], entry
        if name not in networks:
            raise NetworkError(
                f"--weights {entry}: {name!r} is not compared here; the networks are {', '.join(networks)}"
            )
        if name in found:
            raise NetworkError(f"--weights names two files for {name}; give one of them")
        if not Path(file).is_file():
            raise NetworkError(f"--weights {entry}: there is no file {file}; check the path")
        found[name] = Path(file)
    return found


def build_network(
    name: str, *, seed: int, pretrained: bool = False, weights: Path | None = None
) -> SegmentationNetwork:
    """Make the network ``name`` of :data:`NETWORKS`, in training mode on the CPU.

    Random weights come from ``seed`` alone; global random states stay as they were. ``pretrained`` downloads
    the backbone's ImageNet weights (or takes them from the cache), ``weights`` reads them, or those of the
    whole network, from a file.

    Raises NetworkError for an unknown name, for both sources at once, for ``pretrained`` where there is no
    backbone, and when nothing can be downloaded;
    WeightsError for a file that does not fit.
    """
    if name not in NETWORKS:
        raise NetworkError(f"there is no network {name!r}; take one of {', '.join(NETWORKS)}")
    if pretrained and not NETWORKS[name].has_backbone:
        raise NetworkError(f"{name} has no backbone that could be pretrained; leave out --pretrained for it")
    if pretrained and weights is not None:
        raise NetworkError(f"give either pretrained weights or the file {weights}, not both")
    # Initialisers draw from the global CPU generator; torch.manual_seed would reseed CUDA's as well.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(seed, "segmentation-weights"))
        try:
            network = NETWORKS[name].build(pretrained=pretrained)
        except OSError as error:
            if not pretrained:
                raise
            raise NetworkError(
                f"the ImageNet weights for the backbone of {name} cannot be downloaded ({error}); fetch "
                f"them on another machine and give the file with --weights {name}=FILE, or train from random "
                "weights with --no-pretrained"
            ) from error
    if weights is not None:
        load_weights(network, weights)
    return network.train()
