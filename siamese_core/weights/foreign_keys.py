"""Files of other programs: their names brought to those of a merged file, and what in them is no weight."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

_WRAPPERS = ("_forward_module.module.", "_forward_module.", "module.")
_BARE_CONTROL = "zero_convs.0.0.weight"
_OLD_TEXT = re.compile(r"(cond_stage_model\.transformer\.)((?:embeddings|encoder|final_layer_norm)\..*)")

_REASONS = (
    (r"model_ema\.", "moving averages: training goes on from them, painting uses the weights beside them"),
    (
        r"(\w+_)?(betas|alphas_cumprod(_prev)?)$|posterior_\w+$|logvar$|lvlb_weights$|scale_factor$",
        "constants of the noise schedule: computed anew",
    ),
    (r"model\.diffusion_model\.", "the UNet's encoder, which is that of the base"),
    (r"cond_stage_model\.", "parts of the text encoder that no prompt goes through"),
    (r"first_stage_model\.loss\.", "the critic of the VAE's own training"),
    (
        r"(epoch|global_step|callbacks|optimizer\w*|lr_schedulers?|loops|hparams\w*|hyper_parameters|"
        r"pytorch-lightning_version|\w*amp_scaling_state)$",
        "state of a training program",
    ),
)


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


def explain_dropped(keys: Iterable[str]) -> list[str]:
    """A line for each reason why a file's ``keys`` are not read, with their number and the first of them."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        reasons = (why for pattern, why in _REASONS if re.match(pattern, key))
        groups.setdefault(next(reasons, "of none of the four networks"), []).append(key)
    return [
        f"{len(names)} {reason} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"
        for reason, names in groups.items()
    ]
