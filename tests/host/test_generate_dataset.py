"""Generate Dataset in the host: whole datasets, stopped ones, killed ones, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamese_core import shipped
from siamese_core.masks.mask_files import read_mask
from siamese_core.pairs.export_formats import FORMATS
from siamese_core.pairs.manifest import RECORD_KEY

from .conftest import PACK, ROOT
from .support import graphs
from .support.datasets import SMALL, drawn, files, graph, manifest
from .support.examples import example
from .support.server import Host, HostError, Installation, Interrupted


def test_every_mask_of_the_folder_becomes_a_pair_that_equals_the_samplers(host: Host) -> None:
    entry = host.run(
        {
            **graph("whole"),
            "4": graphs.masks(),
            "5": graphs.sampler(("4", 0), steps=2, batch_size=3),
            "6": graphs.saved_pairs(("5", 0), ("5", 1), "sampled"),
        }
    )
    assert "8 pairs in output/whole" in entry["outputs"]["7"]["text"][0]
    assert entry["outputs"]["7"]["images"]
    folder = host.output_dir / "whole"
    lines = manifest(folder)
    assert [line["stem"] for line in lines] == [f"example_{number}" for number in range(1, len(lines) + 1)]
    for number, line in enumerate(lines):
        image, mask = (folder / file["name"] for file in line["files"])
        assert np.array_equal(read_mask(mask).mask, example(number + 1))
        with Image.open(image) as generated:
            assert json.loads(generated.info[RECORD_KEY])["seed"] == line["seed"]
            assert "SiameseGenerateDataset" in generated.info["prompt"]
            other = Image.open(host.output_dir / "sampled" / "images" / f"pair_{number:05d}.png")
            assert np.abs(np.asarray(generated).astype(int) - np.asarray(other)).max() <= 1
        assert line["versions"].keys() == {"comfyui", "torch"}
        assert len(line["checkpoint_digest"]) == 64


def test_random_masks_are_those_of_the_transform_node(host: Host) -> None:
    host.run(
        {
            **drawn("drawn"),
            "8": graphs.transform(("4", 0), variants=4),
            "9": graphs.node("MaskToImage", mask=("8", 0)),
            "10": graphs.saved_pairs(("9", 0), ("8", 0), "transformed"),
        }
    )
    ours = sorted((host.output_dir / "drawn" / "masks").iterdir(), key=lambda path: path.name)
    assert len(ours) == 4 * len(list((shipped.EXAMPLE_MASKS).iterdir()))
    wanted = {path.read_bytes() for path in (host.output_dir / "transformed" / "masks").iterdir()}
    assert {path.read_bytes() for path in ours} == wanted


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_every_format_is_written_from_the_graph(host: Host, kind: str) -> None:
    host.run(graph(f"as_{kind}", format=kind, **SMALL))
    folder = host.output_dir / f"as_{kind}"
    assert len(manifest(folder)) == len(list((shipped.EXAMPLE_MASKS).iterdir()))
    assert all((folder / file["name"]).is_file() for line in manifest(folder) for file in line["files"])


def test_an_interrupted_run_lists_its_pairs_and_goes_on_when_queued_again(host: Host) -> None:
    host.run(drawn("reference", steps=3, **SMALL))
    long = drawn("stopped_early", steps=3, **SMALL)
    prompt_id = host.queue(long)
    parts = host.output_dir / "stopped_early" / ".run" / "parts"
    while not (parts.is_dir() and list(parts.iterdir())):
        time.sleep(0.02)
    host.interrupt()
    with pytest.raises(Interrupted):
        host.wait(prompt_id)
    folder = host.output_dir / "stopped_early"
    listed = len(manifest(folder))
    assert 0 < listed < len(manifest(host.output_dir / "reference"))
    assert len((folder / "prompt.json").read_text().splitlines()) == listed

    host.run(long)
    pixels = {name: content for name, content in files(folder).items() if name.startswith("masks/")}
    assert pixels == {
        name: content
        for name, content in files(host.output_dir / "reference").items()
        if name.startswith("masks/")
    }
    for ours, wanted in zip(manifest(folder), manifest(host.output_dir / "reference"), strict=True):
        assert {**ours, "files": ""} == {**wanted, "files": ""}


KILLS = int(os.environ.get("SIAMESE_KILLS", "1"))


@pytest.mark.slow
@pytest.mark.timeout(1200 + 120 * KILLS)
def test_a_killed_host_leaves_whole_pairs_and_the_next_one_completes_the_set(
    installation: Installation, tmp_path: Path
) -> None:
    """One kill; SIAMESE_KILLS=50 asks for 50 kills of a run of five hundred pairs."""
    prompt = drawn("set", per_mask=max(4, 5 * KILLS // 4), **SMALL)
    folder = tmp_path / "killed" / "output" / "set"
    with Host(installation, tmp_path / "reference", {PACK: ROOT}) as host:
        host.run(prompt, timeout=3600)
        wanted = files(host.output_dir / "set")
    found = 0
    for _ in range(KILLS):
        with Host(installation, tmp_path / "killed", {PACK: ROOT}) as host:
            known = len(listed_files(folder))
            host.queue(prompt)
            while len(listed_files(folder)) <= known:
                time.sleep(0.02)
            host.kill()
        there = listed_files(folder)
        assert len(there) >= found, "a finished pair was lost"
        found = len(there)
        assert all((folder / name).read_bytes() == wanted[name] for name in there)
    with Host(installation, tmp_path / "killed", {PACK: ROOT}) as host:
        host.run(prompt, timeout=3600)
    assert files(folder) == wanted


def listed_files(folder: Path) -> list[str]:
    lines: list[dict[str, Any]] = []
    for part in sorted(folder.glob(".run/parts/[!.]*")):
        with contextlib.suppress(FileNotFoundError):  # a partial list that has just become a full one
            lines += map(json.loads, part.read_text("utf-8").splitlines())
    return [file["name"] for line in lines for file in line["files"]]


def test_other_settings_for_a_set_that_is_there_are_refused_by_name(host: Host) -> None:
    host.run(graph("settled"))
    before = files(host.output_dir / "settled")
    with pytest.raises(HostError, match=r"begun with other settings: 'cfg' was 3.0 and is now 4.0"):
        host.run(graph("settled", cfg=4.0))
    other = graph("settled")
    other["2"]["inputs"]["text"] = "something else"
    with pytest.raises(HostError, match="'text' of CLIPTextEncode was"):
        host.run(other)
    assert files(host.output_dir / "settled") == before
    host.run(graph("settled"))
    assert files(host.output_dir / "settled") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folder": "../outside"}, "leads outside of the folder"),
        ({"folder": "/tmp/outside"}, "is an absolute path"),
        ({"masks": "../../etc"}, "leads outside of the folder"),
        ({"masks": "/etc"}, "lies outside of ComfyUI's input folder"),
        ({"masks": "not_there"}, "not_there"),
        ({"width": 100}, "both sides must be multiples of 64"),
        ({"scheduler": "kl_optimal", "steps": 1}, "has no noise levels for steps=1"),
    ],
)
def test_what_leads_outside_or_cannot_be_is_refused(
    host: Host, changes: dict[str, Any], message: str
) -> None:
    folder = changes.pop("folder", "refused")
    with pytest.raises(HostError, match=message):
        host.run(graph(folder, **changes))
    assert not (host.output_dir / "refused").exists()


def test_masks_that_the_pack_has_written_stay_as_they_are_and_the_node_says_so(host: Host) -> None:
    host.run(graph("ours"))
    shutil.copytree(host.output_dir / "ours", host.input_dir / "ours")
    seen = {
        "4": graphs.masks(folder="ours", invert=True),
        "5": graphs.node("MaskToImage", mask=("4", 0)),
        "6": graphs.saved_pairs(("5", 0), ("4", 0), "seen"),
    }
    entry = host.run({**graph("again", masks="ours", invert=True), **seen})

    assert "written by this package as white on black" in entry["outputs"]["7"]["text"][0]
    for number, line in enumerate(manifest(host.output_dir / "again")):
        own, source = (host.output_dir / name / line["files"][1]["name"] for name in ("again", "ours"))
        loaded = host.output_dir / "seen" / "masks" / f"pair_{number:05d}.png"
        assert all(np.array_equal(read_mask(path).mask, read_mask(source).mask) for path in (own, loaded))
        assert "mask_invert" not in line["sampler"]


def test_a_union_that_cannot_be_drawn_again_is_refused(host: Host) -> None:
    random = {"4": graphs.masks(), "5": graphs.transform(("4", 0), union=("4", 0))}
    with pytest.raises(HostError, match="has a union connected"):
        host.run({**random, **graph("union", transform=("5", 2))})
