"""Every number that a command takes has a range, and what lies outside ends the command before any work."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from siamese_core.diffusers_backend.small_base.training import UNetSettings, VAESettings
from siamese_core.learning.settings import ExecutionSettings, OptimiserSettings
from siamese_core.learning.training_set import BatchSettings
from siamese_core.masks.random_transforms import TransformSettings
from siamese_core.method.objective import ObjectiveSettings
from siamese_core.settings import Range
from tests.support.commands import run_here
from training import (
    convert,
    demo,
    evaluate,
    export,
    generate,
    make_base,
    prepare,
    rate,
    segment,
    select,
    train,
)
from training.segmentation.benchmark import RunSettings
from training.segmentation.mixing import Mixing

Main = Callable[[Sequence[str]], int]

GROUPS: list[tuple[Main, str, type]] = [
    (train.main, "", train.TrainSettings),
    (train.main, "", ObjectiveSettings),
    (train.main, "", BatchSettings),
    (train.main, "", OptimiserSettings),
    (train.main, "", ExecutionSettings),
    (generate.main, "", generate.GenerateSettings),
    (generate.main, "mask_", TransformSettings),
    (make_base.main, "", make_base.MakeBaseSettings),
    (make_base.main, "vae_", VAESettings),
    (make_base.main, "unet_", UNetSettings),
    (prepare.main, "", prepare.PrepareSettings),
    (export.main, "", export.ExportSettings),
    (evaluate.main, "", evaluate.EvaluateSettings),
    (segment.main, "", segment.SegmentSettings),
    (segment.main, "", Mixing),
    (segment.main, "", RunSettings),
    (select.main, "", select.SelectSettings),
    (demo.main, "", demo.DemoSettings),
    (rate.main, "", rate.PageSettings),
    (rate.main, "", rate.ScoreSettings),
]
_BASE = ["--images", "here", "--output", "there"]
NEEDED: dict[type, list[str]] = {
    prepare.PrepareSettings: ["here"],
    export.ExportSettings: ["here"],
    make_base.MakeBaseSettings: _BASE,
    VAESettings: _BASE,
    UNetSettings: _BASE,
    TransformSettings: ["--random-masks"],
    rate.PageSettings: ["page", "--synthetic", "here"],
    rate.ScoreSettings: ["score", "raters.csv"],
}
"""What a command asks for before it looks at its numbers."""


def numbers(settings: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields of ``settings`` that hold a number, or several."""
    hints = typing.get_type_hints(settings)
    return {
        item.name: item
        for item in dataclasses.fields(settings)
        if {int, float} & {hints[item.name], *typing.get_args(hints[item.name])}
    }


@pytest.mark.parametrize("settings", [group[2] for group in GROUPS])
def test_every_number_has_a_range_in_which_its_default_lies(settings: type) -> None:
    for name, item in numbers(settings).items():
        within = item.metadata.get("range")
        assert isinstance(within, Range), name
        default = item.default
        for number in default if isinstance(default, tuple) else (default,):
            assert number is None or within.problem(number) is None, name


@pytest.mark.parametrize(("main", "prefix", "settings"), GROUPS)
def test_a_number_out_of_range_is_refused_by_its_flag(
    main: Main, prefix: str, settings: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hints = typing.get_type_hints(settings)
    for name, item in numbers(settings).items():
        is_float = float in (hints[item.name], *typing.get_args(hints[item.name]))
        beyond = int(item.metadata["range"].low) - 1
        for value in ("nan", "inf", str(beyond)) if is_float else (str(beyond),):
            flag = f"--{(prefix + name).replace('_', '-')}"
            given = [flag, value, value] if isinstance(item.default, tuple) else [f"{flag}={value}"]
            refusal = run_here(main, *NEEDED.get(settings, []), *given).refusal
            assert refusal.startswith(f"{flag} must "), (refusal, given)
            assert refusal.endswith(f"not {value}"), refusal
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_no_settings_have_ranges_too(tmp_path: Path) -> None:
    outcome = run_here(convert.main, tmp_path / "in.pth", tmp_path / "out", "--to", "full", "--heads", 0)
    assert outcome.refusal == "--heads must lie in 1..1024, not 0"
