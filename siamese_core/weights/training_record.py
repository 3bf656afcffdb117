"""The prompts in a model file's training record, with their shares, as sampling uses them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import CheckpointError
from ..seeds import stream_seed

PROMPTS_KEY = "prompts"
"""Key in ``siamese.training`` of a JSON object that maps each prompt to its share."""


def prompt_shares(prompts: Iterable[str]) -> dict[str, float]:
    """The share of each distinct prompt in 0..1, most frequent first; {} for no prompts."""
    counts = Counter(prompts)
    total = counts.total()
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {prompt: count / total for prompt, count in ordered}


def recorded_prompts(training: Mapping[str, Any]) -> dict[str, float]:
    """The prompts that a model was trained on, with their shares; {} when nothing is recorded.

    Files older than recorded shares name a single prompt, which gets the share 1. Raises CheckpointError for
    a damaged record.
    """
    shares = training.get(PROMPTS_KEY)
    if shares is None:
        prompt = training.get("prompt")
        return {prompt: 1.0} if isinstance(prompt, str) else {}
    fits = isinstance(shares, dict) and all(
        type(share) in (int, float) and 0 <= share < math.inf for share in shares.values()
    )
    if not fits or not sum(shares.values()) > 0:
        raise CheckpointError(
            f"its record of the prompts is damaged ({str(shares)[:80]}); give a prompt yourself"
        )
    return {prompt: float(share) for prompt, share in shares.items()}


def draw_prompt(shares: Mapping[str, float], seed: int, index: int) -> str:
    """Draw the prompt of pair ``index`` with probabilities ``shares``, as a pure function of the arguments.

    The result does not depend on the order of ``shares``, which files do not keep.
    """
    prompts = sorted(prompt for prompt, share in shares.items() if share > 0)
    place = stream_seed(seed, "prompt", index) / 2**64 * sum(shares[prompt] for prompt in prompts)
    for prompt in prompts:
        place -= shares[prompt]
        if place < 0:
            return prompt
    return prompts[-1]  # rounding
