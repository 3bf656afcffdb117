"""The folders that a graph may read and write: the host's own and those that the machine's owner allows.

Workflow files are untrusted, so their paths must never leave these folders.
"""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath

import folder_paths

from ...siamese_core.errors import UserError
from ...siamese_core.files import contained_path

ROOTS_VARIABLE = "SIAMESE_DATA_ROOTS"
"""Environment variable with further folders that graphs may read, separated as in PATH."""


def input_path(text: str) -> Path:
    """Resolve ``text`` to a file or folder below ComfyUI's input folder or below an allowed root.

    Backslashes count as slashes. Raises UserError when the path lies anywhere else.
    """
    text = text.strip().strip('"')
    if os.name != "nt":
        text = text.replace("\\", "/")
    if not (Path(text).is_absolute() or PureWindowsPath(text).drive):
        return contained_path(Path(folder_paths.get_input_directory()), text)
    # Except on Windows, a path with a drive letter is not absolute and would be taken for a relative name.
    for root in allowed_roots() if Path(text).is_absolute() else ():
        try:
            return contained_path(root, text)
        except UserError:
            continue
    raise UserError(
        f"The path '{text}' lies outside of ComfyUI's input folder; copy the folder into "
        f"'{folder_paths.get_input_directory()}' and give its name, or allow its place by starting ComfyUI "
        f"with the environment variable {ROOTS_VARIABLE} set to it."
    )


def allowed_roots() -> list[Path]:
    """The input folder, and the folders in :data:`ROOTS_VARIABLE`."""
    extra = os.environ.get(ROOTS_VARIABLE, "").split(os.pathsep)
    return [Path(folder_paths.get_input_directory()), *(Path(root) for root in extra if root.strip())]


def is_nameless(text: str) -> bool:
    """Whether ``text`` is empty or means the root itself, although the name of a folder in it is needed."""
    return ".." not in text and not text.strip(' ./\\"')


def output_path(text: str) -> Path:
    """Resolve ``text`` to a folder below ComfyUI's output folder. Raises UserError when it lies elsewhere."""
    text = text.strip()
    if os.name != "nt":
        text = text.replace("\\", "/")
    if PureWindowsPath(text).drive or Path(text).is_absolute():
        raise UserError(
            f"The folder '{text}' is an absolute path; give a name, which is taken below ComfyUI's output "
            f"folder '{folder_paths.get_output_directory()}'."
        )
    if is_nameless(text):
        raise UserError("The folder for the pairs has no name; give one, such as 'siamese_pairs'.")
    return contained_path(Path(folder_paths.get_output_directory()), text)
