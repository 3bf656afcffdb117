"""The host itself: it starts, runs core nodes, says what is wrong, and holds what a user's holds."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from PIL import Image

from .conftest import OWN, PACK
from .install import TORCH
from .support.server import Host, HostError, Installation, Interrupted, copy_pack

WHITE = 0xFFFFFF


def empty_image(side: int, colour: int = WHITE) -> dict[str, object]:
    inputs = {"width": side, "height": side, "batch_size": 1, "color": colour}
    return {"class_type": "EmptyImage", "inputs": inputs}


def blurred(node: str) -> dict[str, object]:
    return {"class_type": "ImageBlur", "inputs": {"image": [node, 0], "blur_radius": 31, "sigma": 9.0}}


def saved(node: str, prefix: str = "saved") -> dict[str, object]:
    return {"class_type": "SaveImage", "inputs": {"images": [node, 0], "filename_prefix": prefix}}


def test_the_core_nodes_are_registered(host: Host) -> None:
    info = host.object_info()
    assert {"KSampler", "CheckpointLoaderSimple", "ControlNetApplyAdvanced", "LoadImageMask"} <= info.keys()


def test_a_prompt_of_core_nodes_leaves_its_image(host: Host) -> None:
    entry = host.run({"1": empty_image(16, colour=0xFF0000), "2": saved("1")})

    (image,) = entry["outputs"]["2"]["images"]
    with Image.open(host.output_dir / image["subfolder"] / image["filename"]) as found:
        assert found.size == (16, 16)
        assert found.convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_a_prompt_that_lacks_an_input_is_refused_with_the_reason(host: Host) -> None:
    broken = {"class_type": "SaveImage", "inputs": {"filename_prefix": "saved"}}

    with pytest.raises(HostError, match=r"node 2 \(SaveImage\): Required .* missing: images") as refusal:
        host.run({"1": empty_image(16), "2": broken})
    assert refusal.value.node_errors.keys() == {"2"}

    # Also when a part of the prompt could run.
    with pytest.raises(HostError, match=r"node 2 \(SaveImage\): Required input is missing"):
        host.run({"1": empty_image(16), "2": broken, "3": saved("1")})


def test_an_unknown_node_is_named(host: Host) -> None:
    with pytest.raises(HostError, match="NoSuchNode"):
        host.run({"1": {"class_type": "NoSuchNode", "inputs": {}}})


def test_a_node_that_fails_is_named_with_its_message(host: Host) -> None:
    name = host.upload("broken.png", b"no image")
    assert (host.input_dir / name).read_bytes() == b"no image"

    load = {"class_type": "LoadImage", "inputs": {"image": name}}
    with pytest.raises(HostError, match=r"node 1 \(LoadImage\): .*cannot identify image file") as error:
        host.run({"1": load, "2": saved("1")})
    assert error.value.failure["exception_type"].endswith("UnidentifiedImageError")
    assert error.value.failure["traceback"]


def test_an_interruption_stops_a_prompt_and_not_the_next_one(host: Host) -> None:
    blurs = {str(i): blurred(str(i - 1)) for i in range(2, 40)}
    prompt_id = host.queue({"1": empty_image(512), **blurs, "40": saved("39", "interrupted")})
    host.wait_for_message(prompt_id, "executing")
    host.interrupt()
    with pytest.raises(Interrupted):
        host.wait(prompt_id)
    assert not list(host.output_dir.glob("interrupted*"))

    host.run({"1": empty_image(24), "2": saved("1")})


def test_a_host_that_ends_while_starting_shows_its_log(installation: Installation, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="unrecognized arguments: --no-such-flag"):
        Host(installation, tmp_path, flags=["--no-such-flag"])


def test_the_pack_is_copied_without_what_git_ignores(host: Host, tmp_path: Path) -> None:
    copied = host.folder / "custom_nodes" / PACK
    assert (copied / "pyproject.toml").is_file()
    assert not [name for name in (".git", ".venv", ".host", "runs") if (copied / name).exists()]

    # A pack outside git, as a test may write one.
    loose = tmp_path / "loose"
    (loose / "__pycache__").mkdir(parents=True)
    (loose / "__init__.py").touch()
    copy_pack(loose, tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["__init__.py"]


def ask(installation: Installation, code: str) -> str:
    """What ``code`` prints in the host's environment."""
    command = [str(installation.python), "-I", "-c", code]  # -I: not what lies in the current folder
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def pinned(installation: Installation) -> Installation:
    if OWN not in installation.comfyui.parents:
        pytest.skip("a checkout of one's own has the packages that its owner chose")
    return installation


def test_the_host_has_the_torch_it_was_pinned_to(pinned: Installation) -> None:
    versions = "import torch, torchvision; print(torch.__version__, torchvision.__version__)"
    found = [version.partition("+")[0] for version in ask(pinned, versions).split()]
    assert found == [TORCH["torch"], TORCH["torchvision"]]


@pytest.mark.parametrize("package", ["diffusers", "accelerate", "siamese_core"])
def test_the_host_lacks_what_users_do_not_have(pinned: Installation, package: str) -> None:
    assert ask(pinned, f"from importlib.util import find_spec; print(find_spec({package!r}))") == "None"
