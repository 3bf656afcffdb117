"""Keys of other programs' files, brought to those of a merged file."""

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

    Wrappers that training programs put before every name go; a ControlNet saved by itself gets its prefix;
    text encoders of the time before transformers 4.31 get the names of today.
    """
    known = tuple(prefixes.values())
    for wrapper in _WRAPPERS:
        if any(key.startswith(tuple(wrapper + prefix for prefix in known)) for key in tensors):
            tensors = {key.removeprefix(wrapper): value for key, value in tensors.items()}
    if _BARE_CONTROL in tensors:
        tensors = {prefixes["control"] + key: value for key, value in tensors.items()}
    return {_OLD_TEXT.sub(r"\1text_model.\2", key): value for key, value in tensors.items()}
