"""Notes that a command prints besides its results."""

from __future__ import annotations


def note(text: str) -> None:
    """Print ``text`` on its own line with the prefix "note:", so that it can be found in logs."""
    print(f"note: {text}")
