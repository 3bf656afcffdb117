"""What Train Siamese says of a folder that holds a training: in the words of its widgets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BEGUN: dict[str, Any] = {
    "steps": 100,
    "mixed_precision": "no",
    "mask_threshold": 127,
    "mask_label": None,
    "learning_rate": 1e-5,
    "prompt": "nuclei",
    "pairs": 24,
    "pairs_fingerprint": "a" * 64,
    "prompts_digest": "b" * 64,
    "base": "c" * 64,
    "parent": None,
    "snr_exponent": 0.0,
    "draws_per_pair": 1,
    "rate_decay": "none",
    "hint_learning_rate": None,
}


@pytest.fixture
def refusal(part: Callable[[str], ModuleType], tmp_path: Path) -> Callable[..., str]:
    run_folder = part("nodes.training.run_folder")
    (tmp_path / "polyps").mkdir()
    (tmp_path / "polyps" / "run.json").write_text(json.dumps({"run_id": "1", **BEGUN}), "utf-8")

    def refused(**changes: Any) -> str:
        with pytest.raises(ValueError) as error:
            run_folder.find_place(tmp_path / "polyps", {**BEGUN, **changes}, "resume")
        return str(error.value)

    return refused


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 200}, "'steps' was 100 and is now 200"),
        ({"mixed_precision": "bf16"}, "'precision' was 'no' and is now 'bf16'"),
        ({"mask_threshold": 0}, "'threshold' was 127 and is now 0"),
        ({"mask_label": 2}, "'label' was 0 and is now 2"),
        ({"learning_rate": 1e-4}, "'learning_rate' was 1e-05 and is now 0.0001"),
        ({"prompt": "cells", "prompts_digest": "d" * 64}, "'prompt' was 'nuclei' and is now 'cells'"),
        ({"prompts_digest": "d" * 64}, "the prompts of the pairs were changed"),
        ({"pairs_fingerprint": "d" * 64}, "the images or masks of the pairs were changed"),
        (
            {"pairs": 25, "pairs_fingerprint": "d" * 64, "prompts_digest": "d" * 64},
            "the number of pairs was 24 and is now 25",
        ),
        (
            {
                "snr_exponent": 0.5,
                "draws_per_pair": 4,
                "rate_decay": "cosine",
                "hint_learning_rate": 1.2e-4,
                "learning_rate": 6e-4,
            },
            "'learning_rate' was 1e-05 and is now 0.0006; 'recipe' was 'paper' and is now 'small base'",
        ),
        (
            {"learning_rate": 6e-4, "hint_learning_rate": 1.2e-4},
            "'learning_rate' was 1e-05 and is now 0.0006",
        ),
        ({"base": "d" * 64}, "other weights are connected as model, clip or vae"),
        ({"base": "d" * 64, "parent": "2"}, "another ControlNet, or none, is connected"),
        ({"steps": 1, "pairs": 2}, "the number of pairs was 24 and is now 2; 'steps' was 100 and is now 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_differs_is_named_as_the_node_names_it(
    refusal: Callable[..., str], changes: dict[str, Any], told: str
) -> None:
    assert refusal(**changes) == (
        f"The training 'polyps' was begun with other settings: {told}. Put that back to resume it, give "
        "another name, or set if_exists to new to train anew."
    )


def test_an_equal_record_is_resumed(part: Callable[[str], ModuleType], tmp_path: Path) -> None:
    run_folder = part("nodes.training.run_folder")
    (tmp_path / "run.json").write_text(json.dumps({"run_id": "1", **BEGUN}), "utf-8")
    assert run_folder.find_place(tmp_path, BEGUN, "resume").resume


def test_a_new_training_replaces_another_one_but_resumes_an_equal_one(
    part: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    """A graph that was stopped is queued again as it is, with if_exists still set to new."""
    run_folder = part("nodes.training.run_folder")
    (tmp_path / "run.json").write_text(json.dumps({"run_id": "1", **BEGUN}), "utf-8")
    again = run_folder.find_place(tmp_path, BEGUN, "new")
    assert (again.resume, again.replaced, again.may_replace) == (True, (), True)
    other = run_folder.find_place(tmp_path, {**BEGUN, "steps": 200}, "new")
    assert (other.resume, other.replaced) == (False, ("1",))


def test_a_training_that_cannot_be_resumed_is_put_aside_and_not_removed(
    part: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    run_folder = part("nodes.training.run_folder")
    folder = tmp_path / "polyps"
    for _ in range(2):
        folder.mkdir(exist_ok=True)
        (folder / "run.json").write_text(json.dumps({"run_id": "1", **BEGUN}), "utf-8")
        (folder / "checkpoint").write_text("of days", "utf-8")
        place = run_folder.put_aside(run_folder.find_place(folder, BEGUN, "new"))
        assert (place.resume, {*place.replaced}) == (False, {"1"})
        run_folder.clear(place)
        assert not (folder / "run.json").exists()
    assert {path.parent.name for path in tmp_path.rglob("checkpoint")} == {
        "polyps.unreadable-1",
        "polyps.unreadable-2",
    }
