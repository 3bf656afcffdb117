"""Notes for the user on the prompts that a command uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from siamese_core.diffusers_backend.prompt_encoding import MAX_TOKENS, cut_texts
from siamese_core.masks.folder_contents import Tell

_SHOWN = 60  # most characters of a prompt quoted in a note
_SHOWN_PROMPTS = 3


def tell_cut(tokenizer: Any, prompts: Iterable[str], tell: Tell) -> None:
    """Report ``prompts`` that are too long for the text encoder."""
    cut = cut_texts(tokenizer, prompts)
    if cut:
        prompt, rest = next(iter(cut.items()))
        tell(
            f"the text encoder reads {MAX_TOKENS - 2} tokens, and {_counted(len(cut))} longer: of "
            f"{_short(prompt)} the end is not read ({_short(rest)})"
        )


def tell_shares(given: str, shares: Mapping[str, float], tell: Tell) -> None:
    """Report training prompts that are all empty, or that differ from the ``given`` one."""
    if not any(shares):
        tell(
            "no pair has a prompt, and --prompt gives none: the model learns the empty one, and a guidance "
            "scale will have no effect on it"
        )
        return
    others = {prompt: share for prompt, share in shares.items() if prompt != given}
    if given and others:
        shown = ", ".join(
            f"{_short(prompt)} {share:.0%}" for prompt, share in [*others.items()][:_SHOWN_PROMPTS]
        )
        more = f" and {len(others) - _SHOWN_PROMPTS} more" if len(others) > _SHOWN_PROMPTS else ""
        tell(
            f"{sum(others.values()):.0%} of the pairs have a prompt of their own, which is used in place of "
            f"--prompt: {shown}{more}"
        )


def tell_guidance(prompts: Iterable[str], negative: str, guidance: float, tell: Tell) -> None:
    """Report that guidance has no effect, if every prompt equals the negative one."""
    if guidance != 1 and set(prompts) == {negative}:
        tell(
            f"prompt and negative prompt are both {_short(negative)}, so --guidance {guidance:g} has no "
            "effect; give --prompt a text that the model was trained on, or save half of the time with "
            "--guidance 1"
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _counted(count: int) -> str:
    return f"{count} prompt is" if count == 1 else f"{count} prompts are"
