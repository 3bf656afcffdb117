"""The start of a training run: a base alone, or a previously trained model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..architecture import HintBlock
from ..errors import CheckpointError
from ..files import file_digest
from ..resume_check import BASE_PARTS_KEY
from ..weights.diffusers_folder import read_model, weight_files
from ..weights.model_file import KIND_NAMES, load_model
from .base_model import Base, BaseError, TrainedModelError, base_from_file, load_base, local_base
from .networks import DHIControlNet
from .siamese_model import control_from_file
from .whole_model import on_base


@dataclass(frozen=True)
class Start:
    """The base and the ControlNet of a trained model, or None for a ControlNet initialised from the base.

    ``record`` goes into the run's record: the digests of the base's weights (``base`` and, for a diffusers
    folder, ``base_parts``) and, for a trained model, the digest of its file (``init``) and the id of the run
    that trained it (``parent``).
    """

    base: Base
    control: DHIControlNet | None
    record: dict[str, Any]


def read_start(base: Path | None, trained: Path | None, hint_block: HintBlock) -> Start:
    """Read the start from a ``base`` (file, diffusers folder or hub name) or a ``trained`` model file.

    A full model contains its base; an adapter needs ``base`` as well. Raises BaseError or CheckpointError
    when a file cannot be read, the two do not belong together, ``trained`` is not a trained model, or its
    hint block is not ``hint_block``.
    """
    if trained is None:
        if base is None:
            raise BaseError("--base is needed")
        path = local_base(base)
        try:
            return Start(load_base(path), None, base_digests(path))
        except TrainedModelError as error:
            raise BaseError(
                f"{error}; to begin another run from it, use --init in place of --base"
            ) from error
    model = load_model(trained)
    tokenizer, record = None, {"init": file_digest(trained), "parent": model.run_id}
    if model.kind == "full":
        if base is not None:
            raise BaseError(f"{trained}: a whole model, which holds its base; leave out --base")
        record["base"] = record["init"]
    elif model.kind == "adapter":
        if base is None:
            raise BaseError(f"{trained}: an adapter; --base gives the base that it was trained on")
        path = local_base(base)
        try:
            model = on_base(model, read_model(path))
        except CheckpointError as error:
            raise BaseError(f"{trained} on {path}: {error}") from error
        tokenizer = path / "tokenizer" if path.is_dir() else None
        record |= base_digests(path)
    else:
        raise BaseError(
            f"{trained}: this file is {KIND_NAMES[model.kind]}; --init takes a whole model or an adapter"
        )
    if model.architecture.hint_block != hint_block:
        own = model.architecture.hint_block
        raise BaseError(f"{trained}: its hint block is {own}; give --hint-block {own}")
    try:
        return Start(base_from_file(model, tokenizer), control_from_file(model), record)
    except BaseError as error:
        raise BaseError(f"{trained}: {error}") from error


def base_digests(path: Path) -> dict[str, str]:
    """Digests of a base: ``base``, of its file, or of the first UNet weight file in a diffusers folder.

    ``base_parts``, for a folder only: of the other weight files that are read from it.
    """
    if path.is_file():
        return {"base": file_digest(path)}
    first, *shards = weight_files(path / "unet")
    others = [*shards, *weight_files(path / "vae"), *weight_files(path / "text_encoder", "model")]
    parts = "".join(map(file_digest, others))
    return {"base": file_digest(first), BASE_PARTS_KEY: hashlib.sha256(parts.encode()).hexdigest()}
