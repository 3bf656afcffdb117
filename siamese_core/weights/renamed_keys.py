"""Normalising the keys of other programs' files to those of a merged file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

_WRAPPERS = ("_forward_module.module.", "_forward_module.", "module.")
_BARE_CONTROL = "zero_convs.0.0.weight"
_OLD_TEXT = re.compile(r"(cond_stage_model\.transformer\.)((?:embeddings|encoder|final_layer_norm)\..*)")


def familiar_names(tensors: Mapping[str, T], prefixes: Mapping[str, str]) -> dict[str, T]:
    """``tensors`` under the names of a merged file.

    Removes the wrapper prefixes of training programs, adds the prefix of a ControlNet saved by itself, and
    updates the text encoder names of transformers before 4.31.
    """
    known = tuple(prefixes.values())
    for wrapper in _WRAPPERS:
        if any(key.startswith(tuple(wrapper + prefix for prefix in known)) for key in tensors):
            tensors = {key.removeprefix(wrapper): value for key, value in tensors.items()}
    if _BARE_CONTROL in tensors:
        tensors = {prefixes["control"] + key: value for key, value in tensors.items()}
    return {_OLD_TEXT.sub(r"\1text_model.\2", key): value for key, value in tensors.items()}
