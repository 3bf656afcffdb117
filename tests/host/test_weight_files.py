"""Files of every layout in the host: they give what the project's own files give, and no more than asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from siamese_core import shipped
from siamese_core.architecture import LATENT_SCALE
from siamese_core.weights.key_layouts import decoder_keys, merge_parts
from siamese_core.weights.model_file import load_model, save_model
from siamese_core.weights.schedule_buffers import position_ids, schedule_buffers
from tests.support.small_models import PROMPT, write_full

from .support import graphs
from .support.examples import example, headless_latent, latent, write_adapter
from .support.server import Host


def put(host: Host, kind: str, name: str) -> Path:
    folder = host.models_dir / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def loaded(checkpoint: str, prompt: str = "a photo of a polyp", heads: int = 0) -> graphs.Graph:
    """Nodes 1 to 3 for a file in models/checkpoints."""
    graph = graphs.model()
    graph["1"]["inputs"].update(checkpoint=checkpoint, heads=heads)
    graph["2"]["inputs"]["text"] = prompt
    return graph


def sampled(host: Host, graph: graphs.Graph, name: str, **sampler: object) -> torch.Tensor:
    """The latent that our sampler gives for the first example mask; ``graph`` gives nodes 1 to 3."""
    nodes = {
        **graph,
        "4": graphs.masks(count=1),
        "5": graphs.sampler(("4", 0), steps=4, **sampler),
        "6": graphs.saved_latent(("5", 2), f"weights_{name}"),
    }
    host.run(nodes)
    return latent(host, f"weights_{name}")


def test_the_authors_file_gives_what_ours_gives(host: Host) -> None:
    merged = {key: value.float() for key, value in merge_parts(load_model(shipped.MODEL).parts).items()}
    content = {"state_dict": {**merged, **schedule_buffers(), **position_ids(77)}, "epoch": 9}
    torch.save(content, put(host, "checkpoints", "authors.pth"))
    save_model(put(host, "checkpoints", "ours.safetensors"), load_model(shipped.MODEL), dtype=torch.float32)

    theirs = sampled(host, loaded("authors.pth", heads=4), "authors")

    assert torch.equal(theirs, sampled(host, loaded("ours.safetensors"), "ours"))
    assert not torch.equal(theirs, sampled(host, loaded("authors.pth"), "eight"))  # Stable Diffusion's heads


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_model_generates_what_the_headless_command_does(host: Host, prediction: str) -> None:
    path = write_full(put(host, "checkpoints", f"{prediction}.safetensors"), prediction)  # type: ignore[arg-type]

    host.run(
        {
            **loaded(path.name, PROMPT),
            "4": graphs.masks(count=1),
            "5": graphs.sampler(("4", 0), seed=5, steps=10),
            "6": graphs.saved_latent(("5", 2), f"small_{prediction}"),
        }
    )

    # Twice the side it is made for: at 1 x 1 the middle block would normalise groups of two numbers.
    wanted = headless_latent(path, PROMPT, example(1), seed=5, steps=10)
    found = latent(host, f"small_{prediction}") * LATENT_SCALE
    assert float((found - wanted).norm() / wanted.norm()) <= 5e-4


def test_an_adapter_at_strength_1_is_the_merged_file_and_at_0_nothing(host: Host) -> None:
    path = write_adapter(put(host, "controlnet", "nine_tenths.safetensors"))
    adapter, full = load_model(path), load_model(shipped.MODEL)
    unet = {**full.parts["unet"], **adapter.parts["unet"]}
    assert decoder_keys(unet) == list(adapter.parts["unet"])
    merged = put(host, "checkpoints", "merged.safetensors")
    save_model(merged, replace(full, parts={**full.parts, "unet": unet}))

    def with_adapter(strength: float) -> graphs.Graph:
        apply = graphs.node("SiameseApplyAdapter", model=("1", 0), adapter=path.name, strength=strength)
        return {**graphs.model(), "7": apply}

    applied = {"model": ("7", 0), "control_net": ("7", 1)}
    plain = sampled(host, graphs.model(), "plain")
    whole = sampled(host, with_adapter(1.0), "strength_1", **applied)

    prompt = graphs.model()["2"]["inputs"]["text"]
    assert torch.equal(whole, sampled(host, loaded(merged.name, prompt), "merged"))
    assert torch.equal(plain, sampled(host, with_adapter(0.0), "strength_0", **applied))
    assert (whole - plain).abs().max() > 0.01
    # Without the adapter again: nothing of it has stayed in the model, which is the same object as before.
    assert torch.equal(plain, sampled(host, graphs.model(), "again", batch_size=1))


def test_a_control_of_strength_0_is_none(host: Host) -> None:
    graph = {**graphs.model(), "4": graphs.masks(count=1), **graphs.stock_sampling(("4", 0))}
    graph["21"]["inputs"]["strength"] = 0.0
    host.run({**graph, "24": graphs.saved_latent(("23", 0), "weights_silent")})
    graph["23"]["inputs"].update(positive=["2", 0], negative=["3", 0])
    host.run({**graph, "24": graphs.saved_latent(("23", 0), "weights_uncontrolled")})

    assert torch.equal(latent(host, "weights_silent"), latent(host, "weights_uncontrolled"))
