"""The nodes in the host: they register, sample what they should, and keep what they were given."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from siamese_core import shipped
from siamese_core.architecture import LATENT_SCALE

from .conftest import PACK, ROOT
from .support import graphs
from .support.examples import example, headless_latent, headless_stochastic_latent, latent
from .support.server import Host, Interrupted
from .support.workflow import to_prompt

NODES = {
    "SiameseLoadCheckpoint",
    "SiameseApplyAdapter",
    "SiameseLoadMasks",
    "SiameseRandomMaskTransform",
    "SiameseMaskDiffusionSampler",
    "SiamesePreviewPairs",
    "SiameseSavePairs",
    "SiameseGenerateDataset",
    "SiameseTrain",
}


def test_every_node_registers_without_a_warning(host: Host) -> None:
    info = host.object_info()
    found = {name: node for name, node in info.items() if name.startswith("Siamese")}
    assert found.keys() == NODES
    for name, node in found.items():
        assert node["category"] == "Siamese-Diffusion"
        assert len(node["description"]) > 30, name
        for kind in ("required", "optional"):
            for key, spec in node["input"].get(kind, {}).items():
                assert spec[1].get("tooltip"), f"{name}.{key}"
    startup = host.log.partition("To see the GUI")[0]
    lines = [line for line in startup.splitlines() if PACK in line or "iamese" in line]
    assert not [line for line in lines if "WARN" in line.upper() or "ERROR" in line.upper()], lines
    assert "IMPORT FAILED" not in host.log


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_a_workflow_knows_its_nodes_and_has_a_thumbnail(host: Host, path: Path) -> None:
    workflow = json.loads(path.read_text("utf-8"))
    prompt = to_prompt(workflow, host.object_info())
    assert {node["class_type"] for node in prompt.values()} & NODES
    assert path.with_suffix(".jpg").is_file()


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        *(("quick_start", 8), ("dataset_from_random_masks", 16), ("generate_dataset", 16)),
        *(("stock_nodes", 4), ("mask_and_image_prior", 0), ("lesion_into_real_image", 8)),
    ],
)
def test_a_workflow_runs_as_it_is(host: Host, name: str, pairs: int) -> None:
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))
    entry = host.run(to_prompt(workflow, host.object_info()), timeout=900)

    shown = [image for output in entry["outputs"].values() for image in output.get("images", [])]
    assert shown
    for image in shown:
        with Image.open(host.folder / image["type"] / image["subfolder"] / image["filename"]) as sheet:
            assert np.asarray(sheet).std() > 10
    place = {"SiameseSavePairs": 0, "SiameseGenerateDataset": 1}  # of the widget with the folder
    saved = [node for node in workflow["nodes"] if node["type"] in place]
    for node in saved:
        folder = host.output_dir / node["widgets_values"][place[node["type"]]]
        images, masks = (
            sorted(path.stem for path in (folder / kind).iterdir()) for kind in ("images", "masks")
        )
        assert images == masks
        assert len(images) == pairs
        listed = [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]
        assert sorted(line["stem"] for line in listed) == images
        for stem in images:
            mask = np.asarray(Image.open(folder / "masks" / f"{stem}.png"))
            picture = np.asarray(Image.open(folder / "images" / f"{stem}.png"))
            assert set(np.unique(mask)) <= {0, 255} and mask.any()
            assert picture.shape == (*mask.shape, 3)
            assert picture.std() > 5
            if stem.startswith("example_") and stem.count("_") == 1:
                assert np.array_equal(mask > 0, example(int(stem.removeprefix("example_"))))


def test_files_beside_the_masks_that_are_not_read_are_told(host: Host) -> None:
    folder = host.input_dir / "half"
    folder.mkdir()
    Image.fromarray(example(1).astype(np.uint8) * 255).save(folder / "a.png")
    (folder / "b.webp").write_bytes(b"")
    loaded = {"4": graphs.masks(folder="half"), "5": graphs.node("MaskToImage", mask=("4", 0))}
    host.run({**loaded, "6": graphs.node("PreviewImage", images=("5", 0))})
    told = host.text_on("4")
    assert "not read in 'half': 1 WebP file (b.webp)" in told
    assert "1 of 1 masks" in told


def test_a_graph_with_the_earlier_bundled_model_runs_on_the_present_one_and_says_so(host: Host) -> None:
    earlier = {**graphs.model(), "4": graphs.masks(count=1), "5": graphs.sampler(("4", 0), steps=1)}
    earlier["1"]["inputs"]["checkpoint"] = "tiny-siamese.safetensors (bundled)"
    host.run({**earlier, "6": graphs.saved_latent(("5", 2), "earlier")})
    assert "'nuclei-siamese.safetensors (bundled)' takes its place" in host.text_on("1")
    present = {**earlier, "1": graphs.model()["1"]}
    host.run({**present, "6": graphs.saved_latent(("5", 2), "present")})

    assert torch.equal(latent(host, "earlier"), latent(host, "present"))
    assert "'nuclei-siamese.safetensors (bundled)' takes its place" in host.log


def test_the_stock_nodes_give_the_latent_of_our_sampler(host: Host) -> None:
    host.run(
        {
            **graphs.model(),
            "4": graphs.masks(count=1),
            "5": graphs.sampler(("4", 0), seed=77, steps=10),
            "6": graphs.saved_latent(("5", 2), "ours"),
            **graphs.stock_sampling(("4", 0), seed=77, steps=10),
            "24": graphs.saved_latent(("23", 0), "stock"),
        }
    )
    assert (latent(host, "ours") - latent(host, "stock")).abs().max() <= 1e-4


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde"])
def test_a_sample_does_not_depend_on_its_batch(host: Host, sampler: str) -> None:
    graph = {**graphs.model(), "4": graphs.masks(count=3)}
    for size in (1, 3):
        graph[f"5{size}"] = graphs.sampler(("4", 0), batch_size=size, sampler_name=sampler)
        graph[f"6{size}"] = graphs.saved_latent((f"5{size}", 2), f"{sampler}_batch_of_{size}")
    host.run(graph)
    one, three = (latent(host, f"{sampler}_batch_of_{size}") for size in (1, 3))
    assert one.shape == (3, 4, 16, 16)
    assert (one - three).abs().max() <= 1e-3
    assert (one[0] - one[1]).abs().max() > 0.1


def test_a_sample_equals_that_of_the_headless_command_but_for_the_ends_of_the_hosts_ddim(host: Host) -> None:
    host.run(
        {
            **graphs.model(),
            "4": graphs.masks(count=1),
            "5": graphs.sampler(("4", 0), seed=5, steps=50),
            "6": graphs.saved_latent(("5", 2), "fifty"),
        }
    )
    prompt = graphs.model()["2"]["inputs"]["text"]
    wanted = headless_latent(shipped.MODEL, prompt, example(1), seed=5, steps=50)
    found = latent(host, "fifty") * LATENT_SCALE  # the host divides by it
    assert float((found - wanted).norm() / wanted.norm()) <= 1e-4


def test_a_stochastic_sample_equals_that_of_the_headless_command(host: Host) -> None:
    settings = {"sampler_name": "dpmpp_2m_sde", "scheduler": "karras", "steps": 25}
    host.run(
        {
            **graphs.model(),
            "4": graphs.masks(count=1),
            "5": graphs.sampler(("4", 0), seed=5, **settings),
            "6": graphs.saved_latent(("5", 2), "stochastic"),
        }
    )
    prompt = graphs.model()["2"]["inputs"]["text"]
    wanted = headless_stochastic_latent(example(1), prompt, seed=5)
    found = latent(host, "stochastic") * LATENT_SCALE
    assert float((found - wanted).norm() / wanted.norm()) <= 1e-3


def test_fifteen_steps_of_dpmpp_come_near_to_the_latent_of_many(host: Host) -> None:
    graph = {**graphs.model(), "4": graphs.masks(count=1)}
    dpmpp = {"sampler_name": "dpmpp_2m", "scheduler": "karras"}
    kinds = {"exact": {**dpmpp, "steps": 60}, "found": {**dpmpp, "steps": 15}}
    for name, settings in kinds.items():
        graph[name] = graphs.sampler(("4", 0), seed=5, **settings)
        graph[f"{name} saved"] = graphs.saved_latent((name, 2), f"near_{name}")
    host.run(graph)
    exact, found = (latent(host, f"near_{name}") for name in kinds)
    assert (found - exact).norm() <= 0.1 * exact.norm()


def test_strength_and_range_of_the_stock_apply_node_matter(host: Host) -> None:
    graph = {**graphs.model(), "4": graphs.masks(count=1), **graphs.stock_sampling(("4", 0))}
    for name, changes in (
        ("full", {}),
        ("half", {"strength": 0.5}),
        ("late", {"start_percent": 0.5}),
        ("never", {"strength": 0.0}),
    ):
        graph["21"]["inputs"].update({"strength": 1.0, "start_percent": 0.0, **changes})
        host.run({**graph, "24": graphs.saved_latent(("23", 0), f"apply_{name}")})
    full = latent(host, "apply_full")
    for other in ("half", "late", "never"):
        assert (full - latent(host, f"apply_{other}")).abs().max() > 0.01


def test_an_interruption_ends_the_sampling_within_a_step_and_the_next_run_works(host: Host) -> None:
    long = {
        **graphs.model(),
        "4": graphs.masks(count=2),
        "5": graphs.sampler(("4", 0), steps=500, seed=123),
        "6": graphs.saved_latent(("5", 2), "interrupted"),
    }
    prompt_id = host.queue(long)
    while not [step for node, step, _ in host.progress(prompt_id) if node == "5" and step >= 3]:
        time.sleep(0.05)
    host.interrupt()
    done = max(step for node, step, _ in host.progress(prompt_id) if node == "5")
    with pytest.raises(Interrupted):
        host.wait(prompt_id)
    reached = max(step for node, step, _ in host.progress(prompt_id) if node == "5")
    assert reached <= done + 2  # the step that was running, and one that had just begun
    assert not list(host.output_dir.glob("interrupted*"))

    long["5"]["inputs"]["steps"] = 2
    host.run(long)
    assert list(host.output_dir.glob("interrupted*"))


def test_masks_are_read_again_when_the_folder_changes(host: Host) -> None:
    folder = host.input_dir / "changing"
    folder.mkdir()
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(folder / "b2.png")
    graph: dict[str, Any] = {"4": graphs.masks("changing"), **graphs.preview(("4", 0))}
    graph["5"] = graphs.node("PreviewAny", source=("4", 1))
    assert host.run(graph)["outputs"]["5"]["text"] == ["b2"]
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(folder / "b10.png")
    assert host.run(graph)["outputs"]["5"]["text"] == ["b2\nb10"]


def test_masks_of_a_linked_folder_are_read_again_too(host: Host) -> None:
    folder = host.input_dir / "linked"
    folder.mkdir()
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(folder / "a.png")
    graph: dict[str, Any] = {"4": graphs.masks(("9", 0)), **graphs.preview(("4", 0))}  # type: ignore[arg-type]
    graph |= {
        "5": graphs.node("PreviewAny", source=("4", 1)),
        "9": graphs.node("PrimitiveString", value="linked"),
    }
    assert host.run(graph)["outputs"]["5"]["text"] == ["a"]
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(folder / "b.png")
    assert host.run(graph)["outputs"]["5"]["text"] == ["a\nb"]


def test_windows_habits_and_foreign_names_work(host: Host) -> None:
    folder = host.input_dir / "Ordner mit Leerzeichen" / "маски 遮罩"
    folder.mkdir(parents=True)
    Image.fromarray(np.tri(64, dtype=np.uint8) * 255).save(folder / "CON ä.png")
    graph = {
        "4": graphs.masks("Ordner mit Leerzeichen\\маски 遮罩"),
        "5": graphs.node("MaskToImage", mask=("4", 0)),
        "6": graphs.saved_pairs(("5", 0), ("4", 0), "ziel\\unter ordner", names=("4", 1)),
    }
    host.run(graph)
    saved = host.output_dir / "ziel" / "unter ordner"
    assert [path.name for path in (saved / "images").iterdir()] == ["CON ä.png"]


def test_random_masks_are_strictly_binary_and_counted(host: Host) -> None:
    graph = {
        "4": graphs.masks(count=3),
        "5": graphs.transform(("4", 0), total=7, elastic=0.05, beyond="mirrored", names=("4", 1)),
        "6": graphs.node("MaskToImage", mask=("5", 0)),
        "7": graphs.saved_pairs(("6", 0), ("5", 0), "random", names=("5", 1), prompt="p"),
    }
    host.run(graph)
    stems = sorted(path.stem for path in (host.output_dir / "random" / "masks").iterdir())
    assert stems == [
        *("example_1_0", "example_1_1", "example_1_2", "example_2_0"),
        *("example_2_1", "example_3_0", "example_3_1"),
    ]
    for stem in stems:
        mask = np.asarray(Image.open(host.output_dir / "random" / "masks" / f"{stem}.png"))
        image = np.asarray(Image.open(host.output_dir / "random" / "images" / f"{stem}.png"))
        assert set(np.unique(mask)) == {0, 255}
        assert np.array_equal(image, np.repeat(mask[..., None], 3, axis=2))
