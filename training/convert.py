"""Convert a model between the layouts of different programs, losslessly.

    python -m training.convert IN OUT --to adapter|full|diffusers|cldm

IN is a merged checkpoint of the published implementation or of Stable Diffusion 1.x or 2.x (.pth, .ckpt or
.safetensors, plain or under state_dict), a file of this project, or a diffusers folder. Pickled files are
read as weights only: a file that names anything else is refused, and no code in it is run.

--to adapter    what training changes, ControlNet and UNet decoder, for Apply Siamese Adapter
--to full       one file with all four networks, for Load Siamese Checkpoint and training.generate
--to diffusers  a pipeline folder with the ControlNet in controlnet/
--to cldm       the published implementation's own layout, with its noise schedule constants

An adapter is only half of a model: --base PATH supplies the rest. Tensors are converted one at a time and
keep their number format unless --dtype is given.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from siamese_core.diffusers_backend.base_model import local_base
from siamese_core.diffusers_backend.diffusers_export import write_folder
from siamese_core.diffusers_backend.training_start import base_digests
from siamese_core.diffusers_backend.whole_model import on_base, unet_described
from siamese_core.overlap import require_apart
from siamese_core.settings import Range, check_range
from siamese_core.weights.diffusers_folder import FOLDERS, STEM, read_model
from siamese_core.weights.ignored_keys import explain_dropped
from siamese_core.weights.key_layouts import decoder_keys, merge_parts
from siamese_core.weights.model_file import (
    KIND_NAMES,
    ModelFile,
    model_metadata,
    require_safetensors,
    save_model,
    write_weights,
)
from siamese_core.weights.schedule_buffers import position_ids, schedule_buffers

from .command_line.notes import note
from .command_line.options import OptionError, command_parser, run_command

TARGETS = ("adapter", "full", "diffusers", "cldm")
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_FOLDER_MARKS = ("model_index.json", "config.json")
_FOLDER_ENTRIES = {*_FOLDER_MARKS, *FOLDERS.values(), "tokenizer", "scheduler", f"{STEM}.safetensors"}
"""What --to diffusers writes into a folder."""
_SYSTEM_FILES = {".DS_Store", "Thumbs.db", "desktop.ini"}


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    check_range("--heads", args.heads, Range(1, 1024))
    _check_output(args)
    model = read_model(args.source, num_heads=args.heads, prediction=args.prediction)
    print(f"{args.source}: {KIND_NAMES[model.kind]}, {_described(model)}")
    for line in explain_dropped(model.ignored):
        print(f"  left out: {line}")
    if args.base is not None:
        place = local_base(args.base)
        base = read_model(place, num_heads=args.heads, prediction=args.prediction)
        print(f"{args.base}: {KIND_NAMES[base.kind]}, {_described(base)}")
        _note_other_base(model, place)
        model = on_base(model, base)
    dtype = _DTYPES.get(args.dtype)
    written = write(args.output, model, args.to, dtype)
    print(f"written: {args.output} ({_contents(written)})")
    return 0


def _note_other_base(model: ModelFile, base: Path) -> None:
    """Print a note if ``base`` is not the file that the model's record names."""
    own, is_from_base = model.training.get("base"), "init" not in model.training
    # Train Siamese records a digest of tensors, and a run with --init that of the model it began from.
    if model.training.get("command") != "train" or not is_from_base or not isinstance(own, str):
        return
    if own != (digest := base_digests(base)["base"]):
        note(
            f"--base is another file than the one that the model was trained on (SHA-256 {digest[:8]}..., "
            f"not {own[:8]}...): right only if it holds the same weights in another format"
        )


def write(path: Path, model: ModelFile, target: str, dtype: torch.dtype | None) -> ModelFile:
    """Write ``model`` to ``path`` in the layout ``target`` and return the part that was written.

    Raises OptionError when the model lacks networks that the layout needs.
    """
    if target == "diffusers":
        write_folder(path, model, dtype)
        return model
    if target == "adapter":
        model = _adapter(model)
    elif "vae" not in model.parts:
        raise OptionError(
            f"--to {target} wants a whole model and this is {KIND_NAMES[model.kind]}; give the base that it "
            "was trained on as well (--base)"
        )
    if target == "cldm":
        metadata = model_metadata(model)
        del metadata["siamese.kind"]  # it marks files without the constants written here
        constants = schedule_buffers()
        if model.architecture.text.family == "clip":
            constants |= position_ids(model.architecture.text.max_tokens)
        write_weights(path, merge_parts(model.parts), metadata, dtype, constants)
    else:
        save_model(path, model, dtype=dtype)
    return model


def _adapter(model: ModelFile) -> ModelFile:
    if "control" not in model.parts or "unet" not in model.parts:
        raise OptionError(
            f"--to adapter wants a ControlNet and the decoder trained with it, and this is "
            f"{KIND_NAMES[model.kind]}; give a full model"
        )
    unet = model.parts["unet"]
    parts = {"unet": {key: unet[key] for key in decoder_keys(unet)}, "control": model.parts["control"]}
    return replace(model, kind="adapter", parts=parts)


def _check_output(args: argparse.Namespace) -> None:
    output: Path = args.output
    if args.to != "diffusers":
        require_safetensors(output)
    if not output.exists():
        return
    if not args.overwrite:
        raise OptionError(f"{output}: is there already; give another name, or --overwrite")
    if args.to != "diffusers":
        return
    if not output.is_dir() or not any((output / name).exists() for name in _FOLDER_MARKS):
        raise OptionError(f"{output}: is no model folder, and is not replaced; give another name")
    require_apart([output], [path for path in (args.source, args.base) if path is not None and path.exists()])
    known = _FOLDER_ENTRIES | _SYSTEM_FILES
    if others := sorted(path.name for path in output.iterdir() if path.name not in known):
        raise OptionError(
            f"{output}: holds {', '.join(map(repr, others[:3]))}, which --overwrite would remove; move "
            "that away, or give another name"
        )


def _described(model: ModelFile) -> str:
    types = sorted(
        {str(t.dtype).removeprefix("torch.") for part in model.parts.values() for t in part.values()}
    )
    return f"{unet_described(model.architecture)}, {' and '.join(types)}, {_contents(model)}"


def _contents(model: ModelFile) -> str:
    return ", ".join(f"{name} {len(weights)} tensors" for name, weights in sorted(model.parts.items()))


def parse(arguments: Sequence[str] | None) -> Any:
    parser = command_parser("convert", __doc__)
    parser.add_argument("source", type=Path, metavar="IN", help="file or diffusers folder")
    parser.add_argument(
        "output", type=Path, metavar="OUT", help=".safetensors file, or a folder with --to diffusers"
    )
    parser.add_argument("--to", choices=TARGETS, required=True, help="layout to write")
    parser.add_argument(
        "--base", type=Path, help="base model that completes an adapter: file, diffusers folder or hub name"
    )
    parser.add_argument("--dtype", choices=tuple(_DTYPES), help="number format (default: unchanged)")
    parser.add_argument(
        "--heads", type=int, help="number of attention heads, if the file does not record it (default: 8)"
    )
    parser.add_argument(
        "--prediction",
        choices=("epsilon", "v_prediction"),
        help="what an SD 2.x single file predicts, if the guess from its weights is wrong",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_command(main)
