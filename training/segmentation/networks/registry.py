"""The segmentation networks by name, with their published training settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from siamese_core.errors import UserError
from siamese_core.seeds import stream_seed

from .ctnet import CTNet
from .interface import SegmentationNetwork
from .plain_unet import PlainUNet
from .polyp_pvt import PolypPVT
from .pretrained_weights import load_weights
from .sanet import SANet
from .smp_networks import lite_unet, segformer, small_unet, unet


class NetworkError(UserError):
    """A network cannot be built as asked; the message says what to give instead."""


@dataclass(frozen=True)
class NetworkInfo:
    """A network and its published training.

    ``build(pretrained=...)`` makes it with ImageNet weights in its backbone, or with random ones from
    PyTorch's global generator. ``parameters`` is the published number in millions, None if there is no single
    one. ``backbone_rate`` is the backbone's learning rate as a share of ``learning_rate``; ``resolution`` is
    the side in pixels that images are stretched to. Without ``has_backbone`` there are no ImageNet weights.
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
    has_backbone: bool = True


NETWORKS: Mapping[str, NetworkInfo] = {
    # The papers of U-Net and SegFormer do not train on endoscopy: rate and decay are customary (U-Net) or the
    # paper's (SegFormer); batch size, epochs and resolution are those of the polyp networks.
    "unet": NetworkInfo(unet, "adamw", 1e-4, 1e-4, 16, 100, 352, None),
    # Without pretrained weights, a higher rate than for fine-tuning.
    "plain-unet": NetworkInfo(
        lambda *, pretrained: PlainUNet(), "adamw", 1e-3, 1e-4, 16, 100, 352, None, has_backbone=False
    ),
    "segformer": NetworkInfo(segformer, "adamw", 6e-5, 1e-2, 16, 100, 352, 27.35),
    "small-unet": NetworkInfo(small_unet, "adamw", 3e-3, 1e-2, 8, 60, 128, None),
    "lite-unet": NetworkInfo(lite_unet, "adamw", 1e-3, 1e-2, 8, 60, 128, None, backbone_rate=0.3),
    # SGD with Nesterov momentum 0.9.
    "sanet": NetworkInfo(SANet, "sgd", 0.4, 5e-4, 64, 128, 352, 23.90, backbone_rate=0.1),
    "polyp-pvt": NetworkInfo(PolypPVT, "adamw", 1e-4, 1e-4, 16, 100, 352, 25.11),
    "ctnet": NetworkInfo(CTNet, "adamw", 1e-4, 1e-4, 16, 32, 352, 44.29),
}
"""The networks by the names of ``--network``."""


def weights_by_network(entries: Sequence[str], networks: Sequence[str]) -> dict[str, Path]:
    """Parse ``NETWORK=FILE`` entries to files by network; ``FILE`` alone is allowed for a single network.

    Raises NetworkError for a file without a network or with one that is not in ``networks``, and for a
    missing file.
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

    Random weights depend only on ``seed``; global random states are restored. ``pretrained`` downloads the
    backbone's ImageNet weights (or takes them from the cache); ``weights`` is a file with weights of the
    backbone or of the whole network.

    Raises NetworkError for an unknown name, for both sources at once, for ``pretrained`` without a backbone,
    and when the download fails; WeightsError for a file that does not fit and for a package of weights that
    is not installed.
    """
    if name not in NETWORKS:
        raise NetworkError(f"there is no network {name!r}; take one of {', '.join(NETWORKS)}")
    if pretrained and not NETWORKS[name].has_backbone:
        raise NetworkError(f"{name} has no backbone that could be pretrained; leave out --pretrained for it")
    if pretrained and weights is not None:
        raise NetworkError(f"give either pretrained weights or the file {weights}, not both")
    # Initialisers draw from the global CPU generator; torch.manual_seed would also reseed CUDA's.
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
