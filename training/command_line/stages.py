"""Commands as stages of a longer run, in which a finished stage is not repeated."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from siamese_core.files import whole_folder
from siamese_core.resume_check import ResumeError

from .notes import note

Command = Callable[[Sequence[str]], int]


def run_stage(command: Command, label: str, words: Sequence[str]) -> None:
    """Run ``command`` with the command-line ``words``. Raises SystemExit with its status unless that is 0."""
    print(f"\n=== {label}", flush=True)
    if status := command(words):
        raise SystemExit(status)


def write_once(target: Path, write: Callable[[Path], None]) -> None:
    """Unless the folder ``target`` exists, let ``write`` fill it; it appears once it is complete."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(target) as unfinished:
            write(unfinished)


def generate_once(command: Command, label: str, words: Sequence[str], target: Path) -> None:
    """Unless the folder ``target`` exists, let ``command``, which knows ``--resume``, write it.

    Until it is complete its name begins with ``unfinished-``, and a stop loses nothing that was written.
    """
    if target.exists():
        return
    unfinished = target.with_name(f"unfinished-{target.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    own = [*words, "--output", str(unfinished)]
    try:
        run_stage(command, label, [*own, *resume_words(unfinished)])
    except ResumeError as error:  # such as another number of threads, which no plan has to name
        note(f"{error}; it is made anew")
        shutil.rmtree(unfinished)
        run_stage(command, label, own)
    unfinished.rename(target)


def resume_words(folder: Path) -> list[str]:
    """``["--resume"]`` if an earlier run has left something in ``folder``."""
    return ["--resume"] if folder.exists() and any(folder.iterdir()) else []
