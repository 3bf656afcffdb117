"""Which folders a graph may read and write: the host's own, and roots that the machine's owner allows.

A workflow file comes from anyone, so a path in it never leaves these roots.
"""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath

import folder_paths

from ...siamese_core.errors import UserError
from ...siamese_core.files import contained_path

ROOTS_VARIABLE = "SIAMESE_DATA_ROOTS"
"""Environment variable: more folders that graphs may read, separated like PATH."""


def input_path(text: str) -> Path:
    """The file or folder that ``text`` names: below ComfyUI's input folder, or below an allowed root.

    Backslashes count as slashes. Raises UserError when it would lie anywhere else.
    """
    text = text.strip().strip('"')
    if os.name != "nt":
        text = text.replace("\\", "/")
    if not (Path(text).is_absolute() or PureWindowsPath(text).drive):
        return contained_path(Path(folder_paths.get_input_directory()), text)
    # Elsewhere a path with a drive letter is no absolute one and would be taken for a name.
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
    """Whether ``text`` leaves a root itself, or nothing at all, where the name of a folder in it is meant."""
    return ".." not in text and not text.strip(' ./\\"')


def output_path(text: str) -> Path:
    """The folder ``text`` below ComfyUI's output folder. Raises UserError when it lies elsewhere."""
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
