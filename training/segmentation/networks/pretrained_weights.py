"""Loading a segmentation network or its backbone from a local file, without executing code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...pretrained.weight_files import WeightsError, read_tensors
from .interface import SegmentationNetwork

_WRAPPERS = ("state_dict", "model", "model_state_dict")
_CLASSIFIERS = ("fc.", "head.", "last_linear.")  # classifier heads of backbones trained on ImageNet
_COUNTERS = "num_batches_tracked"  # unused counters of batch normalisation, which old files lack


def load_weights(network: SegmentationNetwork, path: Path) -> None:
    """Load ``path`` (.safetensors, or a state dict of torch.save) into ``network`` or its backbone.

    A file with all keys of the network fills the network; any other must fill the backbone, where a
    classifier head is ignored. Raises WeightsError when the file cannot be read, or keys or shapes do not
    fit.
    """
    state = _read_state(path)
    if _missing(network, state):
        _fill(network.backbone, network.backbone_names(state), path)
    else:
        _fill(network, state, path)


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of weights; check the path")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path}: no file of weights that can be read ({error})") from error
    state = read_tensors(path)
    for wrapper in _WRAPPERS:
        if isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    return {
        str(name).removeprefix("module."): tensor
        for name, tensor in state.items()
        if isinstance(tensor, Tensor)
    }


def _fill(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    wanted = module.state_dict()
    state = {name: tensor for name, tensor in state.items() if not name.startswith(_CLASSIFIERS)}
    missing, unknown = _missing(module, state), [name for name in state if name not in wanted]
    misshapen = [name for name in state if name in wanted and state[name].shape != wanted[name].shape]
    if missing or unknown or misshapen:
        name = [*missing, *unknown, *misshapen][0]
        problem = "lacks" if missing else "has an unknown" if unknown else "has another shape of"
        raise WeightsError(
            f"{path}: fits neither the whole network nor its backbone: it {problem} '{name}'; give a file of "
            "this very network, or the ImageNet weights of its backbone"
        )
    nn.Module.load_state_dict(module, {**wanted, **state})


def _missing(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    return [name for name in module.state_dict() if name not in state and not name.endswith(_COUNTERS)]
