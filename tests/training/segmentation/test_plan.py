"""How a plan says what it lacks: too few synthetic pairs, and commands that run as they are printed."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from training.segmentation.plan import (
    Experiment,
    Plan,
    PlanError,
    Variant,
    check_plan,
    named_folders,
    synthetic_count,
    under,
    variants_of_sets,
)

MADE_BY = (
    "python -m training.generate --checkpoint runs/a/model.safetensors --masks ROOT/a/train --output ROOT/b"
)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (
            Variant("real+4x", times=4),
            "4 x 6 real pairs needs 24 synthetic pairs, but there are 10; generate so many "
            "(training.generate --total 24), or ask for fewer (1.66 at most)",
        ),
        (Variant("some", count=11), "count = 11 needs 11 synthetic pairs, but there are 10"),
    ],
)
def test_too_few_synthetic_pairs_are_refused_with_the_number_that_would_do(
    variant: Variant, message: str
) -> None:
    with pytest.raises(PlanError) as refusal:
        synthetic_count(variant, 6, 10)
    assert message in str(refusal.value)


@pytest.mark.parametrize("times", [0.5, 1.66, 1])
def test_as_many_as_a_refusal_says_are_taken(times: float) -> None:
    assert synthetic_count(Variant("some", times=times), 6, 10) == {0.5: 3, 1.66: 10, 1: 6}[times]


@pytest.mark.parametrize("root", ["data", "/mnt/my data/it's $HOME", "."])
def test_the_command_that_makes_a_folder_can_be_copied_into_a_shell(root: str) -> None:
    experiment = Experiment("a", (), {}, (Variant("x", synthetic=(Path("b"),), made_by=MADE_BY),))
    (variant,) = under(Path(root), experiment).variants

    words = shlex.split(variant.made_by)
    assert words == [
        *("python", "-m", "training.generate", "--checkpoint", "runs/a/model.safetensors"),
        *("--masks", str(Path(root) / "a/train"), "--output", str(Path(root) / "b")),
    ]
    with pytest.raises(PlanError) as refusal:
        check_plan(Plan("", "", (under(Path(root), with_a_test_set(experiment)),)), ["unet"])
    assert str(refusal.value).endswith(f"does not exist; it is made by: {variant.made_by}")


def with_a_test_set(experiment: Experiment) -> Experiment:
    return Experiment("a", ("unet",), {"here": Path(__file__).parent}, experiment.variants)


def test_a_folder_whose_name_has_a_sign_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "guidance=3").mkdir()
    monkeypatch.chdir(tmp_path)
    assert named_folders(["guidance=3"]) == {"guidance=3": "guidance=3"}
    assert named_folders(["g=3"]) == {"g": "3"}


def test_a_training_set_of_several_folders_needs_a_name() -> None:
    with pytest.raises(PlanError, match=r"NAME=data/real,data/syn \(syn=data/real,data/syn continues"):
        variants_of_sets(["data/real", "data/real,data/syn"])
    assert [one.name for one in variants_of_sets(["data/real", "both=data/real,data/syn"])] == [
        "real",
        "both",
    ]
