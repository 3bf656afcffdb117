"""Which prompt a generated pair gets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from siamese_core.weights.model_file import load_model, save_model
from siamese_core.weights.training_record import draw_prompt
from tests.support.commands import MODEL_PROMPT, Outcome, run_here
from training import generate
from training.generation import prior_images
from training.generation.prompts import Prompts, chosen_prompts, own_prompts

SHARES = {"bright nuclei": 0.5, "dark nuclei": 0.5}


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "masks"
    folder.mkdir(parents=True)
    image = Image.new("L", (64, 64))
    image.paste(255, (10, 10, 40, 40))
    for stem in ("a", "b", "c"):
        image.save(folder / f"{stem}.png")
    return folder.parent


def retold(model: Path, to: Path, training: dict[str, Any]) -> Path:
    """A copy of ``model`` that records another training."""
    save_model(to, replace(load_model(model), training=training), dtype=None)
    return to


def run(checkpoint: Path, masks: Path, output: Path, *more: object) -> Outcome:
    places = ("--checkpoint", checkpoint, "--masks", masks, "--output", output)
    return run_here(generate.main, *places, "--steps", 1, "--threads", 1, *more)


def prompts_of(output: Path) -> list[str]:
    return [
        json.loads(line)["prompt"] for line in (output / "manifest.jsonl").read_text("utf-8").splitlines()
    ]


def test_equal_masks_that_are_links_to_one_file_keep_their_own_prompts(masks: Path) -> None:
    """As git-annex and DVC keep files of equal content once."""
    store = masks / "store.png"
    (masks / "masks" / "a.png").rename(store)
    for stem in ("a", "c"):
        (masks / "masks" / f"{stem}.png").unlink(missing_ok=True)
        (masks / "masks" / f"{stem}.png").symlink_to(store)
    (masks / "images").mkdir()
    entries = []
    for stem in ("a", "b", "c"):
        Image.new("RGB", (64, 64)).save(masks / "images" / f"{stem}.png")
        names = {"source": f"masks/{stem}.png", "target": f"images/{stem}.png", "prompt": f"prompt {stem}"}
        entries.append(json.dumps(names) + "\n")
    (masks / "prompt.json").write_text("".join(entries), "utf-8")
    files = [masks / "masks" / f"{stem}.png" for stem in ("a", "b", "c")]
    assert own_prompts(masks, files, print) == ["prompt a", "prompt b", "prompt c"]
    assert [path.stem for path in prior_images._of_pairs(masks, files)] == ["a", "b", "c"]


def test_bare_masks_get_prompts_drawn_from_those_the_model_was_trained_on(
    full_model: Path, masks: Path, tmp_path: Path
) -> None:
    training = {"prompt": "bright nuclei", "prompts": SHARES, "resolution": 64}
    model = retold(full_model, tmp_path / "model.safetensors", training)
    outcome = run(model, masks, tmp_path / "out", "--per-mask", 4)
    assert outcome.status == 0, outcome.errors
    drawn = prompts_of(tmp_path / "out")
    assert drawn == [draw_prompt(SHARES, 42, index) for index in range(12)]
    assert {*drawn} == {*SHARES}


def test_a_masks_own_prompt_is_used_and_the_others_are_drawn(
    full_model: Path, masks: Path, tmp_path: Path
) -> None:
    (masks / "metadata.jsonl").write_text(json.dumps({"file_name": "images/b.png", "prompt": "mitosis"}))
    outcome = run(full_model, masks, tmp_path / "out")
    assert outcome.status == 0, outcome.errors
    assert prompts_of(tmp_path / "out") == [MODEL_PROMPT, "mitosis", MODEL_PROMPT]
    assert f"note: {masks}: prompts come from metadata.jsonl" in outcome.output


def test_a_file_without_a_record_samples_at_the_papers_side_and_needs_a_prompt(
    full_model: Path, masks: Path, tmp_path: Path
) -> None:
    model = retold(full_model, tmp_path / "authors.safetensors", {})
    refusal = run(model, masks, tmp_path / "out").refusal
    assert refusal.startswith(f"--prompt is needed: {model} does not record what it was trained on")
    assert not (tmp_path / "out").exists()

    outcome = run(model, masks / "masks" / "a.png", tmp_path / "out", "--prompt", "a photo of polyps")
    assert outcome.status == 0, outcome.errors
    with Image.open(tmp_path / "out" / "images" / "a.png") as image:
        assert image.size == (384, 384)
    assert "samples at the paper's 384 px; --resolution gives another" in outcome.output


def test_guidance_without_a_prompt_is_said_to_have_no_effect(
    full_model: Path, masks: Path, tmp_path: Path
) -> None:
    model = retold(full_model, tmp_path / "model.safetensors", {"prompt": "", "resolution": 64})
    outcome = run(model, masks / "masks" / "a.png", tmp_path / "out")
    assert "prompt and negative prompt are both '', so --guidance 3 has no effect" in outcome.output
    outcome = run(model, masks / "masks" / "a.png", tmp_path / "off", "--guidance", 1)
    assert "has no effect" not in outcome.output


def test_the_end_that_the_text_encoder_does_not_read_is_told(
    full_model: Path, masks: Path, tmp_path: Path
) -> None:
    prompt = "a " * 75 + "with a long stalk"
    outcome = run(full_model, masks / "masks" / "a.png", tmp_path / "out", "--prompt", prompt)
    assert "the text encoder reads 75 tokens, and 1 prompt is longer" in outcome.output
    assert "('with a long stalk')" in outcome.output


def test_a_dataset_begun_before_shares_were_recorded_has_the_same_digest() -> None:
    before = Prompts(["a", "x", "a"], {}, 1).digest
    assert Prompts([None, "x", None], {"a": 1.0}, 7).digest == before
    assert Prompts([None, "x", None], {"a": 0.5, "b": 0.5}, 7).digest != before


def test_prompts_of_masks_are_found_by_the_names_of_their_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    masks = [tmp_path / "masks" / name for name in ("a_mask.png", "b.png", "c_mask.png")]
    for stem in ("a", "b"):
        (tmp_path / "images" / f"{stem}.txt").write_text(f"polyp {stem}")
    assert own_prompts(tmp_path, masks, lambda note: None) == ["polyp a", "polyp b", None]


@pytest.mark.parametrize("given", ["masks", "masks/b.png"])
def test_prompts_that_lie_above_the_given_masks_are_told_of(masks: Path, given: str) -> None:
    entry = {"source": "masks/b.png", "target": "masks/b.png", "prompt": "mitosis"}
    (masks / "prompt.json").write_text(json.dumps(entry))
    notes: list[str] = []
    found = [masks / "masks" / "b.png"]
    prompts = chosen_prompts(None, masks / given, found, Path("m"), {"prompt": "cells"}, 1, notes.append)
    assert prompts.of(0, 0) == "cells"
    assert notes == [
        f"{masks / 'prompt.json'}: its prompts are not read; --masks {masks} takes them for all of its masks"
    ]

    notes.clear()
    prompts = chosen_prompts(None, masks, found, Path("m"), {"prompt": "cells"}, 1, notes.append)
    assert prompts.of(0, 0) == "mitosis"
    assert notes == []


def test_an_empty_prompt_is_none_of_a_masks_own(masks: Path) -> None:
    (masks / "prompt.json").write_text(
        json.dumps({"source": "masks/b.png", "target": "masks/b.png", "prompt": ""})
    )
    assert own_prompts(masks, [masks / "masks" / "b.png"], print) == [None]
