"""Finding the bundled settings files by name, by path, or by their path in older versions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

TRAINING = Path(__file__).parents[1]
RECIPES = TRAINING / "recipes"


def recipe_file(path: Path, folders: tuple[str, ...] = (".", "tables")) -> Path:
    """``path`` if it is a file, else the bundled recipe of that name, else ``path``.

    A bare name, such as ``small_base`` or ``table3``, is looked up in these ``folders`` of the recipes. Paths
    of older versions, such as ``training/tables/table3.toml``, are recognised, too.
    """
    if path.is_file():
        return path
    shipped = {file.relative_to(RECIPES).as_posix(): file for file in RECIPES.rglob("*.toml")}
    return next((shipped[name] for name in _names(path, folders) if name in shipped), path)


def _names(path: Path, folders: tuple[str, ...]) -> Iterator[str]:
    """Possible names of ``path`` relative to the folder of recipes."""
    full = path if path.suffix == ".toml" else path.with_name(f"{path.name}.toml")
    if len(path.parts) == 1:
        yield from ((Path(folder) / full).as_posix() for folder in folders)
    places = [full]
    if full.is_absolute():
        places = [full.relative_to(TRAINING.parent)] if full.is_relative_to(TRAINING.parent) else []
    for place in places:
        yield place.as_posix().removeprefix("training/").removeprefix("recipes/")
