"""What sampling needs of a model file's record of its training: the prompts and their shares."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import CheckpointError
from ..seeds import stream_seed

PROMPTS_KEY = "prompts"
"""Of ``siamese.training``: an object of shares by prompt."""


def prompt_shares(prompts: Iterable[str]) -> dict[str, float]:
    """The share of each of ``prompts``, the most frequent first; {} for none."""
    counts = Counter(prompts)
    total = counts.total()
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {prompt: count / total for prompt, count in ordered}


def recorded_prompts(training: Mapping[str, Any]) -> dict[str, float]:
    """The prompts that a model was trained on, with their shares; {} where nothing is recorded.

    Files written before shares were recorded name one prompt, which then has all.
    Raises CheckpointError for a record that is none.
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
    """The prompt of pair ``index``, drawn by ``shares``: a pure function of the arguments.

    The order of ``shares``, which a file does not keep, plays no part.
    """
    prompts = sorted(prompt for prompt, share in shares.items() if share > 0)
    place = stream_seed(seed, "prompt", index) / 2**64 * sum(shares[prompt] for prompt in prompts)
    for prompt in prompts:
        place -= shares[prompt]
        if place < 0:
            return prompt
    return prompts[-1]  # rounding
