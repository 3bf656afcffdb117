"""Train Siamese in a real ComfyUI: what it writes and shows, how it resumes, and what it refuses."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from siamese_core import shipped
from siamese_core.weights.model_file import load_model

from ..conftest import PACK, ROOT
from ..support import graphs
from ..support.examples import latent
from ..support.server import Host, HostError, Installation, Interrupted

PAIRS = shipped.TRAIN
KILLS = int(os.environ.get("SIAMESE_KILLS", "1"))
LONG = 12 + 2 * (KILLS - 1)
MOST_LATE = 1.0  # seconds after its step at which a kill comes: in a step, a checkpoint or the file's writing


@pytest.fixture(scope="module")
def unbroken(host: Host) -> Path:
    """The adapter of a training that nothing stops."""
    host.run(graphs.training(name="unbroken", steps=LONG), timeout=900)
    return host.models_dir / "controlnet" / "unbroken.safetensors"


def wait_for_step(host: Host, prompt_id: str, step: int) -> None:
    """Return when the training's bar has come to ``step``; the bar before it counts encoded pairs."""
    end = time.monotonic() + 600
    while not any(value >= step and most == LONG for _, value, most in host.progress(prompt_id)):
        assert time.monotonic() < end and not host.get(f"/history/{prompt_id}")
        time.sleep(0.05)


def require_equal_weights(first: Path, second: Path) -> None:
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_training_shows_itself_and_the_graph_samples_from_it(host: Host) -> None:
    graph = {
        **graphs.training(
            name="shown", preview_every=2, files="adapter and whole model", recipe="small base"
        ),
        "2": graphs.node("CLIPTextEncode", clip=("1", 1), text="a photo of nuclei"),
        "3": graphs.node("CLIPTextEncode", clip=("1", 1), text=""),
        "4": graphs.masks(count=1),
        "5": graphs.sampler(("4", 0), model=("30", 0), control_net=("30", 1)),
        "6": graphs.saved_latent(("5", 2), "from_the_training"),
        "7": graphs.node("SiameseApplyAdapter", model=("1", 0), adapter="shown.safetensors", strength=1.0),
        "8": graphs.sampler(("4", 0), model=("7", 0), control_net=("7", 1)),
        "9": graphs.saved_latent(("8", 2), "from_the_file"),
        "10": graphs.node("LossGraphNode", loss=("30", 4), filename_prefix="loss"),
    }
    first = {number: graph[number] for number in ("1", "30", "2", "3", "4", "5", "6", "10")}

    prompt_id = host.queue(first)
    entry = host.wait(prompt_id, timeout=900)

    steps = [value for node, value, most in host.progress(prompt_id) if node == "30" and most == 4]
    assert sorted(set(steps)) == [1, 2, 3, 4]
    sheets = sorted((host.output_dir / "siamese_training" / "shown" / "samples").glob("*.png"))
    assert [path.stem for path in sheets] == ["step-00000002", "step-00000004"]
    assert entry["outputs"]["30"]["images"]
    adapter = load_model(host.models_dir / "controlnet" / "shown.safetensors")
    whole = load_model(host.models_dir / "checkpoints" / "shown.safetensors")
    assert (adapter.kind, whole.kind) == ("adapter", "full")
    assert adapter.run_id == whole.run_id
    assert (adapter.training["command"], adapter.training["step"]) == ("SiameseTrain", 4)
    assert (adapter.training["draws_per_pair"], adapter.training["rate_decay"]) == (4, "cosine")
    listed = host.object_info()["SiameseApplyAdapter"]["input"]["required"]["adapter"]
    assert "shown.safetensors" in json.dumps(listed)
    # The adapter's file and the training's own outputs are one model.
    host.run({number: graph[number] for number in ("1", "2", "3", "4", "7", "8", "9")}, timeout=600)
    assert torch.equal(latent(host, "from_the_training"), latent(host, "from_the_file"))


def test_what_is_not_read_is_told_and_a_graph_whose_pairs_stay_is_not_trained_again(host: Host) -> None:
    shutil.copytree(PAIRS, host.input_dir / "kept_pairs")
    (host.input_dir / "kept_pairs" / "images" / "more.webp").write_bytes(b"")
    prompt = graphs.training(name="kept_pairs", pairs="kept_pairs", steps=1)
    host.run(prompt, timeout=600)
    assert "not read in" in host.text_on("30") and "1 WebP file (more.webp)" in host.text_on("30")
    messages = dict(host.run(prompt)["status"]["messages"])
    assert "30" in messages["execution_cached"]["nodes"]


def test_a_cancelled_training_runs_nothing_after_it_and_resumes_to_the_bit(
    host: Host, unbroken: Path
) -> None:
    graph = graphs.training(name="cancelled", steps=LONG)
    graph |= {"31": graphs.node("PreviewImage", images=("30", 3))}
    prompt_id = host.queue(graph)
    wait_for_step(host, prompt_id, 3)
    host.interrupt()
    with pytest.raises(Interrupted):
        host.wait(prompt_id)

    run = host.output_dir / "siamese_training" / "cancelled"
    (saved,) = (run / "checkpoints").iterdir()
    done = int(saved.name.removeprefix("step-"))
    assert 3 <= done < LONG
    assert len((run / "log.jsonl").read_text("utf-8").splitlines()) == done
    assert not (host.models_dir / "controlnet" / "cancelled.safetensors").exists()

    prompt_id = host.queue(graph)
    host.wait(prompt_id, timeout=900)
    assert min(value for _, value, most in host.progress(prompt_id) if most == LONG) == done + 1
    require_equal_weights(host.models_dir / "controlnet" / "cancelled.safetensors", unbroken)
    assert len((run / "log.jsonl").read_text("utf-8").splitlines()) == LONG


@pytest.mark.timeout(1200 + 120 * KILLS)
def test_a_killed_host_resumes_to_the_bit(installation: Installation, unbroken: Path, tmp_path: Path) -> None:
    """One kill; SIAMESE_KILLS=20 asks for twenty within one training."""
    late = random.Random(KILLS)
    graph = graphs.training(name="killed", steps=LONG, save_every=2)
    for kill in range(KILLS + 1):
        with Host(installation, tmp_path, {PACK: ROOT} if not kill else None) as own:
            prompt_id = own.queue(graph)
            if kill < KILLS:
                wait_for_step(own, prompt_id, 2 + (LONG - 10) * (kill + 1) // (KILLS + 1))
                time.sleep(late.uniform(0, MOST_LATE))
                own.kill()
                continue
            own.wait(prompt_id, timeout=900)

    require_equal_weights(tmp_path / "models" / "controlnet" / "killed.safetensors", unbroken)


def test_a_trained_model_is_trained_on_with_its_own_controlnet(host: Host) -> None:
    graph = graphs.training(name="tuned", steps=2, control_net=("1", 3))
    graph["1"] = graphs.model()["1"]
    host.run(graph, timeout=600)

    parent, tuned = (
        load_model(shipped.MODEL),
        load_model(host.models_dir / "controlnet" / "tuned.safetensors"),
    )
    assert tuned.training["parent"] == parent.run_id != tuned.run_id
    moved = [
        float((value.float() - parent.parts["control"][key].float()).abs().max())
        for key, value in tuned.parts["control"].items()
    ]
    assert 0 < max(moved) < 1e-2


class TestRefusals:
    @pytest.fixture(autouse=True)
    def host_goes_on(self, host: Host) -> Iterator[None]:
        yield
        host.run({"4": graphs.masks(count=1), **graphs.preview(("4", 0))})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"pairs": "../elsewhere"}, "leads outside"),
            ({"pairs": "/etc"}, "lies outside of ComfyUI's input folder"),
            ({"pairs": " "}, "There is no folder of pairs"),
            ({"pairs": "nowhere"}, "does not exist"),
            ({"name": "../escaped"}, "cannot be that of a file"),
            ({"name": "CON"}, "cannot be that of a file"),
            ({"precision": "fp16"}, "fp16 needs a GPU"),
        ],
        ids=str,
    )
    def test_what_cannot_be_trained(self, host: Host, changes: dict[str, object], message: str) -> None:
        refused(host, graphs.training(**{"name": "refused", **changes}), message)
        assert not (host.output_dir / "siamese_training" / "refused").exists()

    def test_a_prompt_file_that_leads_elsewhere(self, host: Host, tmp_path: Path) -> None:
        shutil.copytree(PAIRS, tmp_path / "pairs")
        folder = host.input_dir / "leading_out"
        folder.mkdir(exist_ok=True)
        line = {
            "source": str(next((tmp_path / "pairs" / "masks").iterdir())),
            "target": str(next((tmp_path / "pairs" / "images").iterdir())),
            "prompt": "nuclei",
        }
        (folder / "prompt.json").write_text(json.dumps(line), "utf-8")
        refused(host, graphs.training(pairs="leading_out"), "lies outside of ComfyUI's input folder")

    def test_a_trained_model_without_its_controlnet(self, host: Host) -> None:
        graph = {**graphs.training(), "1": graphs.model()["1"]}
        refused(host, graph, "its ControlNet is not connected")

    def test_names_that_are_taken(self, host: Host) -> None:
        host.run(graphs.training(name="taken", steps=1), timeout=600)
        run = host.output_dir / "siamese_training" / "taken" / "run.json"
        before = run.read_text("utf-8")
        refused(host, graphs.training(name="taken", steps=2), "'steps' was 1 and is now 2")
        refused(host, graphs.training(name="taken", if_exists="refuse"), "holds a training already")
        assert run.read_text("utf-8") == before

        place = host.models_dir / "controlnet" / "foreign.safetensors"
        place.parent.mkdir(exist_ok=True)
        shutil.copy(shipped.MODEL, place)
        refused(host, graphs.training(name="foreign"), "was not made by this training")
        assert place.read_bytes() == shipped.MODEL.read_bytes()

        host.run(graphs.training(name="taken", steps=2, if_exists="new"), timeout=600)
        assert run.read_text("utf-8") != before
        other = run.read_text("utf-8")
        host.run(graphs.training(name="taken", steps=2, if_exists="new", preview_cfg=2.0), timeout=600)
        assert run.read_text("utf-8") == other
        assert load_model(host.models_dir / "controlnet" / "taken.safetensors").training["step"] == 2


def refused(host: Host, graph: graphs.Graph, message: str) -> None:
    with pytest.raises(HostError, match=message) as error:
        host.run(graph)
    assert error.value.failure, "refused by the node itself, not by the host"
