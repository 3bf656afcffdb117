"""Reading text that somebody wrote with a program of their own."""

from __future__ import annotations

import codecs
from pathlib import Path

from .errors import UserError

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    # Longer marks first: that of UTF-32 begins like the one of UTF-16.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class TextError(UserError):
    """A file that is no text; the message names it and the fix."""


def read_text(path: Path) -> str:
    """The text of ``path``: UTF-8, with or without the mark that Windows editors put before it, or UTF-16.

    Line ends become ``\\n``. Raises TextError for anything else, and OSError.
    """
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise TextError(f"'{path}' is not UTF-8 text; save it as UTF-8.") from error
