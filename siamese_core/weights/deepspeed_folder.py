"""DeepSpeed checkpoints: folders in which every process has saved its own shard of the weights."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError

_SCRIPT = "zero_to_fp32.py"


def refuse_deepspeed(folder: Path) -> None:
    """Raise CheckpointError, naming the merge command, when ``folder`` is a DeepSpeed checkpoint.

    DeepSpeed puts its merge script beside the shards. That script comes with somebody else's files, so it is
    only named here, never run.
    """
    script = folder / _SCRIPT
    pieces = any(folder.glob("*_model_states.pt")) or any(folder.glob("*/*_model_states.pt"))
    if not script.exists() and not pieces:
        return
    # The script expects the parent of a step's folder, which has no script of its own.
    root = folder if script.exists() or any(folder.glob("*/*_model_states.pt")) else folder.parent
    command = (
        f"python {root / _SCRIPT}" if (root / _SCRIPT).exists() else "python -m deepspeed.utils.zero_to_fp32"
    )
    raise CheckpointError(
        f"{folder}: a DeepSpeed checkpoint, whose weights lie in pieces. Merge them, in an environment with "
        f"deepspeed, by its own command: {command} {root} merged.pth (newer versions write a folder of that "
        "name with the file in it). Then convert that file"
    )
