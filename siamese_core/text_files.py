"""Reading text files in the encodings that common editors write."""

from __future__ import annotations

import codecs
from pathlib import Path

from .errors import UserError

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    # UTF-32 before UTF-16, because its mark begins with that of UTF-16.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class TextError(UserError):
    """A file is not text; the message names the file and the fix."""


def csv_delimiter(text: str) -> str:
    """The delimiter in the first line of a CSV, which spreadsheets take from their locale."""
    return max(",;\t", key=text.partition("\n")[0].count)


def read_text(path: Path) -> str:
    """The text of ``path``, in UTF-8 or, with a byte order mark, UTF-16 or UTF-32.

    Windows line ends become ``\\n``. Raises TextError for other encodings, and OSError.
    """
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise TextError(f"'{path}' is not UTF-8 text; save it as UTF-8.") from error
