"""Recipes are found by name, by path, and where they lay in older versions."""

from __future__ import annotations

from pathlib import Path

import pytest

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
