"""Keys of a foreign model file that are not read, such as moving averages (EMA), and the reason for each."""

from __future__ import annotations

import re
from collections.abc import Iterable

_REASONS = (
    (r"model_ema\.", "moving averages (EMA): sampling uses the weights beside them"),
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


def explain_dropped(keys: Iterable[str]) -> list[str]:
    """One line for each reason why ``keys`` of a file are not read, with their count and the first two."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        reasons = (why for pattern, why in _REASONS if re.match(pattern, key))
        groups.setdefault(next(reasons, "of none of the four networks"), []).append(key)
    return [
        f"{len(names)} {reason} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"
        for reason, names in groups.items()
    ]
