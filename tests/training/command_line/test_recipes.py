"""Recipes are found by name, by path, and where they lay in older versions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from siamese_core.learning.recipes import SMALL_BASE_RATE, with_recipe
from siamese_core.learning.settings import BatchSettings, OptimiserSettings
from training.command_line.options import OptionError, read_toml
from training.command_line.recipes import RECIPES, TRAINING, recipe_file


@pytest.mark.parametrize(
    ("given", "recipe"),
    [
        ("small_base", "small_base.toml"),
        ("small_base.toml", "small_base.toml"),
        ("table3", "tables/table3.toml"),
        ("figure7.toml", "tables/figure7.toml"),
        ("tables/table3", "tables/table3.toml"),
        ("ablations/table5.toml", "ablations/table5.toml"),
        ("training/small_base.toml", "small_base.toml"),
        ("training/tables/table3.toml", "tables/table3.toml"),
        ("training/ablations/small.toml", "ablations/small.toml"),
        ("training/recipes/tables/table3.toml", "tables/table3.toml"),
        (TRAINING / "tables" / "table3.toml", "tables/table3.toml"),
        (TRAINING / "recipes" / "small_base.toml", "small_base.toml"),
    ],
)
def test_a_recipe_is_found(
    given: str | Path, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe_file(Path(given)) == RECIPES / recipe
    assert read_toml(Path(given))


def test_a_name_in_two_folders_is_that_of_the_command() -> None:
    assert recipe_file(Path("table5")) == RECIPES / "tables" / "table5.toml"
    assert recipe_file(Path("table5"), ("ablations",)) == RECIPES / "ablations" / "table5.toml"


def test_a_file_that_is_there_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("table3", "training/tables/table3.toml"):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("steps = 3\n")
        assert read_toml(path) == {"steps": 3}


@pytest.mark.parametrize(
    "name", ["table9", "elsewhere/table3.toml", "../small_base.toml", "/tables/table3.toml"]
)
def test_any_other_path_is_itself(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe_file(Path(name)) == Path(name)
    with pytest.raises(OptionError, match=f"{name}: cannot be read as TOML"):
        read_toml(Path(name))


def test_the_small_base_recipe_of_the_nodes_is_that_of_the_commands() -> None:
    given = read_toml(Path("small_base"))
    parts = with_recipe(
        "small base",
        BatchSettings(batch_size=given["batch_size"]),
        OptimiserSettings(learning_rate=SMALL_BASE_RATE),
    )
    of_the_node = {name: value for part in parts for name, value in asdict(part).items()}
    default = {
        name: value
        for part in with_recipe("paper", BatchSettings(), OptimiserSettings())
        for name, value in asdict(part).items()
    }
    of_the_command = {**default, **{name: value for name, value in given.items() if name != "resolution"}}
    rate = of_the_node.pop("hint_learning_rate")
    assert rate == pytest.approx(of_the_command.pop("hint_learning_rate"), rel=1e-12)
    assert of_the_node == of_the_command
