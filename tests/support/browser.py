"""The browser of the tests that need one."""

from __future__ import annotations

import os
import shutil

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


def browser_or_skip() -> str:
    """The path of the browser that SIAMESE_BROWSER names, else of a usual one; skips the test without one."""
    named = os.environ.get("SIAMESE_BROWSER")
    for name in (named, *BROWSERS):
        if name and (found := shutil.which(name)):
            return found
    pytest.skip(f"no browser found ({', '.join(BROWSERS)}); name one in SIAMESE_BROWSER")
