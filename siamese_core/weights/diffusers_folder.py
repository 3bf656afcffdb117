"""Reading a diffusers folder as a model file: weights under ldm names, no modules built, nothing copied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ..architecture import (
    LATENT_SCALE,
    LATENT_STRIDE,
    Architecture,
    HintBlock,
    Prediction,
    TextArchitecture,
    UNetArchitecture,
    VAEArchitecture,
    check_architecture,
)
from ..errors import CheckpointError, UserError
from ..json_lines import parse_json
from .deepspeed_folder import refuse_deepspeed
from .key_layouts import to_ldm
from .key_names import Part
from .model_file import ModelFile, infer_kind, load_model, training_record
from .tensor_files import SAFETENSORS, read_metadata, read_weights, require_floating
from .unsupported_models import LATENT_CONSISTENCY, SDXL, LayoutError, refuse_other_channels

FOLDERS: Mapping[Literal["unet", "control", "vae", "text"], str] = {
    "unet": "unet",
    "control": "controlnet",
    "vae": "vae",
    "text": "text_encoder",
}
"""Subfolder of each part in a diffusers folder."""

_CONTROL_CLASSES = ("DHIControlNet", "ControlNetModel")
_STEMS = {"text": "model"}
STEM = "diffusion_pytorch_model"
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_SHOWN = 300  # most characters of foreign text quoted in a message
_ONLY: Mapping[str, Mapping[str, Any]] = {
    "unet": {
        "act_fn": "silu",
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "freq_shift": 0,
        "flip_sin_to_cos": True,
        "mid_block_scale_factor": 1,
        "downsample_padding": 1,
        "center_input_sample": False,
        "time_embedding_act_fn": None,
    },
    "vae": {"act_fn": "silu", "norm_num_groups": 32},
    "scheduler": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "trained_betas": None,
        "num_train_timesteps": 1000,
        "rescale_betas_zero_snr": False,
    },
}
"""Entries of a configuration that change what a network computes, and their values in Stable Diffusion."""
_ACTIVATIONS = ("quick_gelu", "gelu")
_CONSISTENCY_SCHEDULERS = ("LCMScheduler", "TCDScheduler")


def read_model(
    path: Path, *, num_heads: int | None = None, prediction: Prediction | None = None
) -> ModelFile:
    """Read a model from a single file, as :func:`load_model` does, or from a diffusers folder.

    A folder may hold a whole pipeline or a ControlNet alone; its configurations take precedence over
    ``num_heads`` and ``prediction``. Raises CheckpointError, naming file or folder, when the model is
    damaged, incomplete or of another family, or a DeepSpeed checkpoint (with the merge command). Raises
    FileNotFoundError when ``path`` does not exist.
    """
    if not path.is_dir():
        return load_model(path, num_heads=num_heads, prediction=prediction)
    refuse_deepspeed(path)
    try:
        return _read_folder(path)
    except LayoutError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: a JSON file there lacks something or is no such model's ({error!r:.{_SHOWN}}); "
            "download or save the folder again"
        ) from error


def _read_folder(path: Path) -> ModelFile:
    configs = _configs(path)
    _refuse_other_models(path, configs)
    training, run_id = _record(path, "control" if "control" in configs else "unet")
    architecture = _architecture(path, configs)
    parts = {part: _read_part(_part_folder(path, part), part, architecture) for part in configs}
    return ModelFile(infer_kind(parts), architecture, training, run_id, parts)


def _architecture(path: Path, configs: Mapping[Any, Mapping[str, Any]]) -> Architecture:
    """The architecture in the configurations, validated before any loop runs up to its numbers."""
    main = "unet" if "unet" in configs else "control"
    with _config_named(path, main):
        side = configs.get("unet", {}).get("sample_size")  # a ControlNet's sample_size is meaningless
        found = Architecture(
            unet=_unet_architecture(configs[main]),
            hint_block=_hint_block(configs.get("control", {})),
            resolution=int(side or 64) * LATENT_STRIDE,
            prediction=_prediction(path),
        )
        check_architecture(found)
    if "control" in configs:
        with _config_named(path, "control"):
            _require_usual("control", configs["control"])
    if "vae" in configs:
        with _config_named(path, "vae"):
            found = replace(found, vae=_vae_architecture(path, configs["vae"]))
            check_architecture(found)
    if "text" in configs:
        with _config_named(path, "text"):
            found = replace(found, text=_text_architecture(configs["text"]))
            check_architecture(found)
    return found


@contextmanager
def _config_named(path: Path, part: str) -> Iterator[None]:
    """Turn errors from a hostile or damaged configuration of ``part`` into one that names its file."""
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f"{_part_folder(path, part) / 'config.json'}: lacks something or is no such model's "
            f"({error!r:.{_SHOWN}}); download or save the folder again"
        ) from error


def _part_folder(path: Path, part: str) -> Path:
    folder = path / FOLDERS[part]  # type: ignore[index]
    return path if part == "control" and not folder.is_dir() else folder


def _configs(path: Path) -> dict[Any, dict[str, Any]]:
    """The configurations of the parts present in the folder, by part."""
    if (path / "config.json").exists():
        config = _read_json(path / "config.json")
        kind = config.get("_class_name", "unknown")
        if kind not in _CONTROL_CLASSES:
            raise CheckpointError(
                f"{path}: one part of a model ({kind}); give the folder around it, or a ControlNet's own"
            )
        return {"control": config}
    found = {
        part: _read_json(path / folder / "config.json")
        for part, folder in FOLDERS.items()
        if (path / folder / "config.json").exists()
    }
    missing = [FOLDERS[part] for part in FOLDERS if part != "control" and part not in found]
    if missing:
        raise CheckpointError(f"{path}: not a diffusers model folder, {missing[0]}/config.json is missing")
    return found


def _refuse_other_models(path: Path, configs: Mapping[Any, Mapping[str, Any]]) -> None:
    index = _read_json(path / "model_index.json") if (path / "model_index.json").exists() else {}
    unet = configs.get("unet", configs.get("control", {}))
    if "text_encoder_2" in index or unet.get("addition_embed_type") == "text_time":
        raise LayoutError(SDXL)
    refuse_other_channels(unet.get("in_channels", 4), unet.get("out_channels", 4))
    scheduler = index.get("scheduler", ["", ""])[1]
    if unet.get("time_cond_proj_dim") or scheduler in _CONSISTENCY_SCHEDULERS:
        raise LayoutError(LATENT_CONSISTENCY)


def _read_part(folder: Path, part: Part, architecture: Architecture) -> dict[str, Tensor]:
    """The weights of ``part`` in ``folder``, under prefix-free ldm names."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder, _STEMS.get(part, STEM)):
        tensors.update(read_weights(file).tensors)
    if part == "text":
        tensors = {
            key.removeprefix("text_model."): value
            for key, value in tensors.items()
            if not key.endswith("position_ids")
        }
    if part == "vae":
        tensors = {_new_attention(key): value for key, value in tensors.items()}
    require_floating(folder, tensors)
    try:
        return to_ldm(part, tensors, architecture)
    except LayoutError as error:
        raise CheckpointError(
            f"{folder}: its weights are not those of Stable Diffusion 1.x or 2.x with its config.json "
            f"({error}); download or save the folder again, or give a model of that family"
        ) from error


def weight_files(folder: Path, stem: str = STEM) -> list[Path]:
    """The weight file in a part's ``folder``, or its shards.

    Prefers ``.safetensors`` to ``.bin`` and fp32 to fp16. Raises CheckpointError when there is none.
    """
    for suffix in (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin"):
        head, _, kind = suffix.rpartition(".")
        index = folder / f"{stem}.{kind}.index{head}.json"
        if stem == "model" and kind == "bin":
            stem = "pytorch_model"
        whole = folder / f"{stem}{suffix}"
        if whole.is_file():
            return [whole]
        if index.is_file():
            return sorted({folder / Path(name).name for name in _read_json(index)["weight_map"].values()})
    raise CheckpointError(f"{folder}: no weights there ({stem}.safetensors); download or save it again")


def _new_attention(key: str) -> str:
    for old, new in _OLD_ATTENTION.items():
        key = key.replace(old, new)
    return key


def _record(path: Path, part: str) -> tuple[dict[str, Any], str]:
    """Training record and run id from the metadata that :mod:`training.convert` writes; empty without it."""
    folder = _part_folder(path, part)
    file = weight_files(folder)[0]
    metadata = read_metadata(file) if file.suffix == SAFETENSORS else {}
    try:
        training = training_record(metadata.get("siamese.training", "{}"))
    except ValueError as error:
        raise CheckpointError(f"{folder}: its metadata cannot be read ({error}); convert it again") from error
    return training, metadata.get("siamese.run_id", "")


def _require_usual(part: str, config: Mapping[str, Any]) -> None:
    """Raise LayoutError for an entry that would make ``config`` another network or noise schedule."""
    for name, usual in _ONLY["unet" if part == "control" else part].items():
        found = config.get(name)
        if found is not None and found != usual:
            raise LayoutError(
                f"its {part} has {name} {str(found)[:_SHOWN]}, and only {usual} is supported, as in Stable "
                "Diffusion; give another base"
            )


def _unet_architecture(config: Mapping[str, Any]) -> UNetArchitecture:
    _require_usual("unet", config)
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    widths = tuple(config["block_out_channels"])
    head_channels = 0
    if not isinstance(heads, int):
        if len(heads) != len(widths):
            raise ValueError(f"{len(heads)} numbers of heads for {len(widths)} levels of channels")
        sizes = {width // count for width, count in zip(widths, heads, strict=True)}
        if len(sizes) > 1:
            raise LayoutError(
                f"heads of unequal size between levels ({str(heads)[:_SHOWN]}); SD 1.x or 2.x is needed"
            )
        head_channels = sizes.pop()
    depth = config.get("transformer_layers_per_block", 1)
    if depth != 1 or config.get("mid_block_type", "UNetMidBlock2DCrossAttn") is None:
        raise LayoutError("a UNet of another shape (distilled or SDXL); use Stable Diffusion 1.x or 2.x")
    return UNetArchitecture(
        widths=widths,
        layers_per_block=config.get("layers_per_block", 2),
        num_heads=heads if isinstance(heads, int) else 8,
        context_dim=config["cross_attention_dim"],
        head_channels=head_channels,
        linear_projection=bool(config.get("use_linear_projection", False)),
    )


def _vae_architecture(path: Path, config: Mapping[str, Any]) -> VAEArchitecture:
    _require_usual("vae", config)
    scale = config.get("scaling_factor", LATENT_SCALE)
    if abs(scale - LATENT_SCALE) > 1e-6:
        raise CheckpointError(f"{path}: the VAE's scaling factor is {scale}, not {LATENT_SCALE}")
    return VAEArchitecture(
        widths=tuple(config["block_out_channels"]),
        layers_per_block=config.get("layers_per_block", 2),
        latent_channels=config.get("latent_channels", 4),
    )


def _text_architecture(config: Mapping[str, Any]) -> TextArchitecture:
    if (activation := config.get("hidden_act", "quick_gelu")) not in _ACTIVATIONS:
        raise LayoutError(
            f"its text encoder has hidden_act {str(activation)[:_SHOWN]}; {' and '.join(_ACTIVATIONS)} are "
            "supported"
        )
    return TextArchitecture(
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        vocab_size=config.get("vocab_size", 49408),
        max_tokens=config.get("max_position_embeddings", 77),
        family="clip" if activation == "quick_gelu" else "open_clip",
    )


def _hint_block(control: Mapping[str, Any]) -> HintBlock:
    return "dense" if not control or control.get("hint_block") == "dense" else "sparse"


def _prediction(path: Path) -> Prediction:
    scheduler = path / "scheduler" / "scheduler_config.json"
    config = _read_json(scheduler) if scheduler.exists() else {}
    _require_usual("scheduler", config)
    found = config.get("prediction_type", "epsilon")
    if found not in ("epsilon", "v_prediction"):
        raise CheckpointError(f"{path}: the base predicts {found!r}; 'epsilon' or 'v_prediction' is needed")
    return "v_prediction" if found == "v_prediction" else "epsilon"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(parse_json(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not a JSON object ({error}); download or save the folder again"
        ) from error
