"""Command-line flags and TOML files for settings dataclasses, one flag per field."""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from siamese_core.errors import UserError
from siamese_core.settings import check_range
from siamese_core.text_files import TextError, read_text

from .memory import is_out_of_memory
from .recipes import recipe_file

T = TypeVar("T")
_TEXTS = tuple[str, ...]


class OptionError(UserError):
    """A setting that is unknown, missing or of the wrong type."""


def add_flags(parser: argparse._ActionsContainer, settings: type, prefix: str = "") -> None:
    """Add ``--field-name`` for every field of the dataclass ``settings``, with the help in its metadata."""
    hints = typing.get_type_hints(settings)
    for item in dataclasses.fields(settings):
        flag = "--" + (prefix + item.name).replace("_", "-")
        kind = _scalar_type(hints[item.name])
        options: dict[str, Any] = {"dest": prefix + item.name, "default": None}
        options["help"] = _help_text(item)
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(kind) is tuple:
            part = typing.get_args(kind)[0]
            options |= {"type": part, "nargs": "+", "metavar": part.__name__.upper()}
            if kind == _TEXTS:
                options["action"] = "extend"  # --synthetic A --synthetic B means both
        elif typing.get_origin(kind) is typing.Literal:
            options["choices"] = typing.get_args(kind)
        else:
            options |= {"type": kind, "metavar": kind.__name__.upper()}
        parser.add_argument(flag, **options)


def command_parser(command: str, manual: str | None) -> argparse.ArgumentParser:
    """The parser of ``python -m training.<command>``; ``manual`` is the module's docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m training.{command}",
        description=manual,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def settings_of(settings: type[T], args: argparse.Namespace) -> T:
    """Make ``settings`` from flags and the ``--config`` file, in which no other keys are allowed.

    Raises OptionError like :func:`read_toml`, :func:`refuse_unknown` and :func:`build`.
    """
    table = read_toml(args.config)
    refuse_unknown(table, field_names(settings), args.config)
    return build(settings, args, table)


def plain(settings: Any) -> dict[str, Any]:
    """The values of a settings dataclass in JSON types; a tuple of a single string becomes that string."""
    return {name: _plain(value) for name, value in dataclasses.asdict(settings).items()}


def require_empty(output: Path, advice: str = "give a new folder") -> None:
    """Raise OptionError unless ``output`` is an empty folder or missing; ``advice`` ends the message."""
    if output.exists() and not output.is_dir():
        raise OptionError(f"{output}: is a file; give a folder")
    if output.exists() and any(output.iterdir()):
        raise OptionError(f"{output}: not empty; {advice}")


def read_toml(path: Path | None, folders: tuple[str, ...] = (".", "tables")) -> dict[str, Any]:
    """The table of settings in ``path``, a TOML file or a bundled recipe; {} for None.

    ``folders`` is passed to :func:`~training.command_line.recipes.recipe_file`. Raises OptionError, naming
    the file, when it cannot be read.
    """
    if path is None:
        return {}
    try:
        text = read_text(recipe_file(path, folders))
    except (OSError, TextError) as error:
        raise OptionError(f"{path}: cannot be read as TOML ({error})") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        is_windows = ":\\" in text or '"\\\\' in text
        advice = "; write a Windows path with / or in 'single quotes'" if is_windows else ""
        raise OptionError(f"{path}: cannot be read as TOML ({error}){advice}") from error


def build(settings: type[T], args: argparse.Namespace, table: Mapping[str, Any], prefix: str = "") -> T:
    """Make ``settings`` from flags, the TOML ``table`` and the defaults, in this order of precedence.

    Raises OptionError for a missing value or a wrong type, and SettingError for one out of range.
    """
    values: dict[str, Any] = {}
    hints = typing.get_type_hints(settings)
    for item in dataclasses.fields(settings):  # type: ignore[arg-type]
        name = prefix + item.name
        given = getattr(args, name, None)
        if given is None and name in table:
            given = _checked(name, table[name], _scalar_type(hints[item.name]))
        if given is not None:
            value = tuple(given) if isinstance(given, list) else given
            check_range(f"--{name.replace('_', '-')}", value, item.metadata.get("range"))
            values[item.name] = value
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise OptionError(f"--{name.replace('_', '-')} is needed (or {name} in the TOML file)")
    return settings(**values)


def refuse_unknown(table: Mapping[str, Any], known: set[str], path: Path | None) -> None:
    """Raise OptionError for keys of a TOML ``table`` that are not in ``known``."""
    unknown = sorted(set(table) - known)
    if unknown:
        raise OptionError(f"{path}: unknown setting {unknown[0]!r}; known ones: {', '.join(sorted(known))}")


def field_names(settings: type, prefix: str = "") -> set[str]:
    """The names of a dataclass's settings in a TOML file."""
    return {prefix + item.name for item in dataclasses.fields(settings)}


def run_command(main: Callable[[], int]) -> None:
    """Run a command's ``main`` and exit; errors that the user can fix are one line on stderr and status 2."""
    for stream in (sys.stdout, sys.stderr):
        # A file name that the console's or a log's encoding lacks is shown escaped.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main()
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(
            "error: out of memory: lower what is worked on at once (--batch-size, --resolution)",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        raise SystemExit(130) from None
    raise SystemExit(status)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    is_single = isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], str)
    return value[0] if is_single else value


def _help_text(item: dataclasses.Field[Any]) -> str:
    text = str(item.metadata.get("help", ""))
    notes = (
        [] if item.default in (dataclasses.MISSING, None, Path(), "", ()) else [f"default: {item.default}"]
    )
    if within := item.metadata.get("range"):
        notes.append(str(within))
    shown = f"({'; '.join(notes)})" if notes else ""
    return f"{text} {shown}".strip().replace("%", "%%")


def _scalar_type(hint: Any) -> Any:
    """``X`` of ``X | None``; anything else unchanged."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return hint


def _checked(name: str, value: Any, kind: Any) -> Any:
    """``value`` from a TOML file, converted to ``kind``. Raises OptionError if the type does not fit."""
    if typing.get_origin(kind) is tuple:
        if kind == _TEXTS and type(value) is str:
            value = [value]
        fits = isinstance(value, list) and all(type(part) in _accepted(kind) for part in value)
    elif typing.get_origin(kind) is typing.Literal:
        fits = value in typing.get_args(kind)
    elif kind is float:
        fits = type(value) in (int, float)
    elif kind is Path:
        fits = type(value) is str
    else:
        fits = type(value) is kind
    if not fits:
        raise OptionError(f"{name} = {value!r} in the TOML file does not fit; it must be {_described(kind)}")
    return kind(value) if kind in (float, Path) else value


def _accepted(kind: Any) -> tuple[type, ...]:
    """The types allowed for the elements of a TOML list that becomes a tuple of type ``kind``."""
    return (int, float) if typing.get_args(kind)[0] is float else (typing.get_args(kind)[0],)


def _described(kind: Any) -> str:
    """A phrase for messages on what a TOML value for a field of type ``kind`` must be."""
    if typing.get_origin(kind) is tuple:
        if kind == _TEXTS:
            return "a string, or a list of strings"
        return f"a list of {'numbers' if float in _accepted(kind) else 'integers'}"
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(map(repr, typing.get_args(kind)))}"
    return {bool: "true or false", int: "an integer", float: "a number"}.get(kind, "a string")
