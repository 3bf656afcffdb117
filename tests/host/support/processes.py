"""Processes of the host's interpreter that are not ComfyUI's own server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from ..server import Installation

_SCRIPTS = Path(__file__).parents[1]
_PACK = _SCRIPTS.parents[1]


def inside(installation: Installation, function: str, *files: Path, script: str = "inside.py") -> Any:
    """The result of a function of ``script``, which gets ``files``; it runs in the folder of the first."""
    command = [installation.python, _SCRIPTS / script, installation.comfyui, _PACK, function, *files]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=files[0].parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
