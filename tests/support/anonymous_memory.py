"""What a command keeps in memory besides the files that it has mapped."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path


def peak_anonymous_memory(*command: object) -> int:
    """Bytes of memory that belong to no file, at their peak while ``command`` runs; it must end well."""
    peak = 0
    with subprocess.Popen([*map(str, command)], cwd=Path(__file__).parents[2]) as process:
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text("utf-8")
            peak = max(peak, *(int(kib) << 10 for kib in re.findall(r"RssAnon:\s+(\d+)", status)), 0)
            time.sleep(0.05)
    assert process.returncode == 0
    return peak
