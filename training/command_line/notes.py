"""What a command tells its user besides its results."""

from __future__ import annotations


def note(text: str) -> None:
    """Print ``text`` as a line of its own that a reader of logs finds."""
    print(f"note: {text}")
