"""Weight files of the networks that metrics use: local, cached or downloaded."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from siamese_core.errors import CheckpointError, UserError
from siamese_core.weights.pickled_files import check_archive


class WeightsError(UserError):
    """Weights are missing or do not fit; the message says which file to put where."""


def cached_file(url: str) -> Path:
    """The path of ``url``'s file in PyTorch's cache."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def weight_file(given: Path | None, url: str, flag: str, *, download: bool) -> Path:
    """The file ``given`` by the user with ``flag``, else the cached file of ``url``, fetched if ``download``.

    The digest of a download is checked against the one in its name (``name-<digest>.pth``). Raises
    WeightsError when the file does not exist or could not be downloaded.
    """
    if given is not None:
        if not given.is_file():
            raise WeightsError(f"{given}: no such file; {flag} takes the file {url}")
        return given
    path = cached_file(url)
    if path.is_file():
        return path
    wanted = f"fetch {url} and put it at {path}, or name it with {flag}"
    if not download:
        raise WeightsError(f"weights are missing: {wanted}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2])
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"weights cannot be downloaded ({error}): {wanted}") from error
    return path


def read_tensors(path: Path) -> dict[str, Any]:
    """The state dict in ``path``, loaded without executing code.

    Also reads the format of torch.save before PyTorch 1.6, in which some of torchvision's files are. Raises
    WeightsError for a file that cannot be read this way, would unpack to more than its size, or holds
    anything other than a state dict.
    """
    try:
        if zipfile.is_zipfile(path):
            check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError as error:
        raise WeightsError(str(error)) from error
    except Exception as error:  # torch's unpickler can raise anything on damaged files
        reason = str(error).strip().partition("\n")[0][:200]
        raise WeightsError(f"{path}: no file of weights that can be read ({reason})") from error
    if not isinstance(state, dict):
        raise WeightsError(f"{path}: holds a {type(state).__name__}, not a state dict")
    return state
