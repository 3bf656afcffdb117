from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from siamese_core.diffusers_backend.prompt_encoding import (
    MAX_TOKENS,
    encode_prompts,
    load_tokenizer,
    tokenize,
)
from tests.support.small_models import small_base

START, END = 49406, 49407
PROMPTS = ["a photo of polyps", "", "Größe 3,5 cm — it's a polyp!", "polyp " * 100]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer()


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("Hello,  WORLD!", [3306, 267, 1002, 256]),
        ("", []),
    ],
)
def test_prompts_have_clips_ids(tokenizer: Any, prompt: str, ids: list[int]) -> None:
    (found,) = tokenize(tokenizer, [prompt]).tolist()

    assert found == [START, *ids] + [END] * (MAX_TOKENS - 1 - len(ids))


def test_the_papers_prompt_is_padded_with_the_end_token(tokenizer: Any) -> None:
    (ids,) = tokenize(tokenizer, ["a photo of polyps"]).tolist()

    assert ids[:4] == [START, 320, 1125, 539]
    first_end = ids.index(END)
    assert first_end > 4
    assert ids[first_end:] == [END] * (MAX_TOKENS - first_end)


def test_a_long_prompt_is_cut_and_keeps_its_end(tokenizer: Any) -> None:
    (ids,) = tokenize(tokenizer, ["polyp " * 100]).tolist()

    assert len(ids) == MAX_TOKENS
    assert (ids[0], ids[-1]) == (START, END)
    assert END not in ids[:-1]


def test_a_saved_tokenizer_is_read_from_its_folder(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.save_pretrained(str(tmp_path))

    saved = load_tokenizer(tmp_path)

    assert saved.name_or_path == str(tmp_path)
    assert torch.equal(tokenize(saved, PROMPTS), tokenize(tokenizer, PROMPTS))


def test_a_folder_with_vocabulary_and_merges_gives_the_same_ids(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.save_pretrained(str(tmp_path / "new"))
    model = json.loads((tmp_path / "new/tokenizer.json").read_text("utf-8"))["model"]
    old = tmp_path / "old"
    old.mkdir()
    (old / "vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
    merges = [" ".join(pair) for pair in model["merges"]]
    (old / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")

    saved = load_tokenizer(old)

    assert saved.name_or_path == str(old)
    assert torch.equal(tokenize(saved, PROMPTS), tokenize(tokenizer, PROMPTS))


def test_a_folder_without_tokenizer_gets_clips_own(tmp_path: Path, tokenizer: Any) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        assert torch.equal(tokenize(load_tokenizer(folder), PROMPTS), tokenize(tokenizer, PROMPTS))


def test_a_prompts_encoding_does_not_depend_on_its_batch(tokenizer: Any) -> None:
    encoder = small_base().text_encoder

    together = encode_prompts(encoder, tokenizer, PROMPTS)

    assert together.shape == (len(PROMPTS), MAX_TOKENS, 32)
    assert not together.requires_grad
    torch.testing.assert_close(encode_prompts(encoder, tokenizer, PROMPTS[2:3]), together[2:3])
    assert not torch.allclose(together[0], together[1])
