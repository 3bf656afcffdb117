"""Processes of the host's interpreter that are not ComfyUI's own server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from .server import Installation

_SCRIPTS = Path(__file__).parent
_PACK = Path(__file__).parents[3]


def inside(
    installation: Installation,
    function: str,
    *files: Path,
    script: str = "inside.py",
    folder: Path | None = None,
) -> Any:
    """The result of a function of ``script``, which gets ``files``; it runs in ``folder``, or the first's."""
    command = [installation.python, _SCRIPTS / script, installation.comfyui, _PACK, function, *files]
    place = folder or files[0].parent
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=place)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
