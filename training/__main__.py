"""Entry point: ``python -m training`` lists the commands, ``python -m training train ...`` runs one.

The installed command ``siamese-diffusion`` does the same; ``python -m training.train ...`` works, too.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

COMMANDS = (
    "demo",
    "prepare",
    "make_base",
    "train",
    "generate",
    "select",
    "merge",
    "regenerate",
    "export",
    "evaluate",
    "segment",
    "ablate",
    "rate",
    "convert",
)
"""All commands, in the order in which they are typically used."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command named by the first argument, or list all; always raises SystemExit."""
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or [""]
    if name in ("", "-h", "--help"):
        print(_overview())
        raise SystemExit(0)
    command = name.replace("-", "_")
    if command not in COMMANDS:
        print(f"error: there is no command {name!r}; known ones: {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    # Imported late, because importing a command imports torch, which takes seconds.
    from .command_line.options import run_command

    module = importlib.import_module(f"{__package__}.{command}")
    run_command(lambda: int(module.main(rest)))


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {_first_line(name)}" for name in COMMANDS]
    return "\n".join(
        [
            "usage: python -m training COMMAND ...    (manual: python -m training COMMAND --help)",
            "",
            *lines,
        ]
    )


def _first_line(command: str) -> str:
    """The first line of the command's module docstring, read without importing the module."""
    text = Path(__file__).with_name(f"{command}.py").read_text("utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
