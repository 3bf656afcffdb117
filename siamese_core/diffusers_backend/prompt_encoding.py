"""Prompts to conditioning: the CLIP tokenizer without a download, and text encoding."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ..architecture import TextArchitecture

MAX_TOKENS = 77
END_TOKEN = 49407
_FIRST_MERGE_LINE, _MERGES = 1, 49152 - 256 - 2


def pad_token(text: TextArchitecture) -> int:
    """The token id that pads short prompts: the end token for SD 1.x, 0 for SD 2.x."""
    return END_TOKEN if text.family == "clip" else 0


def load_tokenizer(folder: Path | None = None, pad: int = END_TOKEN) -> Any:
    """The tokenizer in ``folder`` if it has one, else CLIP's from the vocabulary in open_clip.

    The latter pads with token id ``pad``. Raises FileNotFoundError when neither is available.
    """
    # transformers writes tokenizer.json since version 5 and merges.txt before
    if folder is not None and any((folder / name).exists() for name in ("tokenizer.json", "merges.txt")):
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    vocab, merges = _open_clip_vocabulary()
    word = next(word for word, token in vocab.items() if token == pad)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS, pad_token=word)


def _open_clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "no CLIP tokenizer found: the base folder has no tokenizer and the package "
            "open_clip_torch, which carries the vocabulary, is not installed (pip install open_clip_torch)"
        )
    path = Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    pairs = [line.split() for line in lines[_FIRST_MERGE_LINE : _FIRST_MERGE_LINE + _MERGES]]
    merges = [(first, second) for first, second in pairs]
    letters = _byte_letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return {word: index for index, word in enumerate(words)}, merges


def _byte_letters() -> list[str]:
    """The printable characters that stand for the 256 bytes, in the order of CLIP's vocabulary."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(others)]


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Token ids ``(B, 77)``; long prompts are truncated, short ones padded."""
    batch = tokenizer(
        list(prompts), padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    )
    return batch.input_ids


def cut_texts(tokenizer: Any, prompts: Iterable[str]) -> dict[str, str]:
    """The ``prompts`` that :func:`tokenize` truncates, each with the text that is lost (in lower case)."""
    lost = {}
    for prompt in dict.fromkeys(prompts):
        ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
        if len(ids) > MAX_TOKENS:
            lost[prompt] = str(tokenizer.decode(ids[MAX_TOKENS - 1 : -1])).strip()
    return lost


@torch.no_grad()
def encode_prompts(text_encoder: CLIPTextModel, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """Conditioning ``(B, 77, width)`` on the encoder's device: CLIP's last hidden state after layer norm."""
    ids = tokenize(tokenizer, prompts).to(text_encoder.device)
    return text_encoder(ids)[0]
