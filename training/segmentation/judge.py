"""A small segmentation network that judges mask adherence.

It is trained on real pairs only and segments synthetic images; the Dice against their masks measures how well
the generator followed the masks. It starts from random weights and learns a simple domain, such as nuclei, in
about a minute on two CPU cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms
from tqdm import tqdm

from siamese_core.learning.learning_rate import cosine_rate, set_learning_rate
from siamese_core.seeds import epoch_order, generator, stream_seed

_DECODER_WIDTHS = (64, 32, 16, 8)  # from the second coarsest feature map to full resolution
_STRIDE = 2 ** len(_DECODER_WIDTHS)  # stride of the coarsest map; image sides must be multiples of it


@dataclass(frozen=True)
class SegmenterSettings:
    """Architecture and training of the judging network."""

    steps: int = 350
    batch_size: int = 4
    learning_rate: float = 3e-3  # peak of a linear warm-up over a tenth of the steps and a half cosine
    # An encoder name of segmentation-models-pytorch ("tu-" for timm's). This one has four narrow stages; in
    # the same CPU time it learned drawn lesions better than ResNet-18.
    encoder: str = "tu-test_resnet"


def train_segmenter(
    images: NDArray[np.uint8], masks: NDArray[np.bool_], settings: SegmenterSettings, *, seed: int
) -> nn.Module:
    """Train a U-Net from random weights to predict ``masks`` from ``images``, on the CPU.

    All draws come from ``seed``; PyTorch's global random state is restored.

    Args:
        images: (N, H, W, 3) RGB, H and W multiples of 16.
        masks: (N, H, W), true on the lesions.

    Returns:
        The network in evaluation mode, for :func:`predict_masks`.

    Raises:
        ValueError: there is no image, the masks are not of the images' number and size, or a side is not
            a multiple of 16.
    """
    _check_images(images)
    if not len(images):
        raise ValueError("there is no image to train the segmentation network on")
    if masks.shape != images.shape[:3]:
        raise ValueError(f"masks {masks.shape} do not fit images {images.shape}: give one mask per image")
    model = _initial_network(settings.encoder, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate)
    cross_entropy = smp.losses.SoftBCEWithLogitsLoss()
    dice = smp.losses.DiceLoss(mode="binary")

    progress = tqdm(range(settings.steps), desc="segmenter", mininterval=1.0)
    for step in progress:
        chosen = epoch_order(seed, step, settings.batch_size, len(images))
        draws = generator(stream_seed(seed, "segmenter-augmentation", step))
        pairs = [_augmented(_pixels(images[i]), torch.from_numpy(masks[i]), draws) for i in chosen]
        inputs = _network_input(torch.stack([image for image, _ in pairs]))
        wanted = torch.stack([mask for _, mask in pairs]).float().unsqueeze(1)
        logits = model(inputs)
        loss = cross_entropy(logits, wanted) + dice(logits, wanted)
        set_learning_rate(
            optimizer, cosine_rate(settings.learning_rate, step, settings.steps, max(1, settings.steps // 10))
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        progress.set_postfix(loss=f"{float(loss.detach()):.3f}", refresh=False)
    return model.eval()


@torch.no_grad()
def predict_masks(model: nn.Module, images: NDArray[np.uint8], batch_size: int = 16) -> NDArray[np.bool_]:
    """Masks (N, H, W) bool predicted for ``images`` (N, H, W, 3) uint8: True at probabilities above 0.5.

    Raises ValueError when a side is not a multiple of 16.
    """
    _check_images(images)
    predicted = np.zeros(images.shape[:3], dtype=np.bool_)
    for start in range(0, len(images), batch_size):
        chunk = slice(start, start + batch_size)
        predicted[chunk] = (model(_network_input(_pixels(images[chunk]))) > 0).squeeze(1).numpy()
    return predicted


def _check_images(images: NDArray[np.uint8]) -> None:
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise ValueError(f"images must be uint8 (N, H, W, 3), not {images.dtype} {images.shape}")
    height, width = images.shape[1:3]
    if height % _STRIDE or width % _STRIDE:
        raise ValueError(
            f"the segmentation network takes images whose sides are multiples of {_STRIDE}, "
            f"not {width}x{height}: resize or pad them"
        )


def _initial_network(encoder: str, seed: int) -> nn.Module:
    # Initialisers draw from the global CPU generator; torch.manual_seed would also reseed CUDA's.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(seed, "segmenter-weights"))
        model = smp.Unet(
            encoder,
            encoder_depth=len(_DECODER_WIDTHS),
            encoder_weights=None,
            decoder_channels=_DECODER_WIDTHS,
            classes=1,
        )
    return model.to(memory_format=torch.channels_last).train()


def _pixels(images: NDArray[np.uint8]) -> Tensor:
    """Convert (..., H, W, 3) uint8 to (..., 3, H, W) float in [0, 1]."""
    return torch.from_numpy(images).movedim(-1, -3).float() / 255


def _network_input(pixels: Tensor) -> Tensor:
    """Normalise (B, 3, H, W) in [0, 1] to about zero mean and unit deviation."""
    return ((pixels - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)


def _augmented(image: Tensor, mask: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Randomly rotate and mirror a pair, (3, H, W) in [0, 1] and (H, W), and slightly degrade its image.

    Synthetic images are slightly off in tone and sharpness; a network trained on degraded images judges the
    position of a lesion, not its crispness.
    """
    uniform = _uniform(draws)
    height, width = mask.shape
    quarter_turns = int(next(uniform) * 4)
    if height != width:
        quarter_turns = quarter_turns // 2 * 2  # a single quarter turn would change the shape
    image, mask = image.rot90(quarter_turns, (1, 2)), mask.rot90(quarter_turns, (0, 1))
    if next(uniform) < 0.5:
        image, mask = image.flip(2), mask.flip(1)
    image = transforms.adjust_brightness(image, 0.8 + 0.4 * next(uniform))
    image = transforms.adjust_contrast(image, 0.8 + 0.4 * next(uniform))
    image = transforms.adjust_saturation(image, 0.8 + 0.4 * next(uniform))
    if next(uniform) < 0.5:
        image = transforms.gaussian_blur(image, [7, 7], [0.3 + 1.2 * next(uniform)])
    noise = torch.randn(image.shape, generator=draws)
    return (image + 0.04 * next(uniform) * noise).clamp(0, 1), mask


def _uniform(draws: torch.Generator) -> Iterator[float]:
    """An endless sequence of uniform numbers in [0, 1)."""
    while True:
        yield float(torch.rand((), generator=draws))
