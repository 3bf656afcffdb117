"""The control and the adapter inside the host: equal to the recordings, and safe under model management."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from siamese_core import shipped
from siamese_core.weights.key_layouts import split_parts
from siamese_core.weights.model_file import ModelFile, save_model
from siamese_core.weights.schedule_buffers import schedule_buffers
from tests.support.goldens import FOLDER, load_goldens
from tests.support.learning import one_device

from .support.examples import write_adapter
from .support.processes import inside
from .support.server import Installation


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter for the bundled model, its decoder a little different from the model's."""
    return write_adapter(tmp_path_factory.mktemp("adapter") / "adapter.safetensors")


@pytest.mark.parametrize("name", ["control.safetensors", "published.pth"])
def test_the_control_equals_the_recording(name: str, installation: Installation, tmp_path: Path) -> None:
    goldens = load_goldens()
    parts, _ = split_parts(goldens.weights)
    if name == "published.pth":
        torch.save({"state_dict": {**goldens.weights, **schedule_buffers()}}, tmp_path / name)
    else:
        model = ModelFile("control", goldens.architecture(), {}, "", {"control": parts["control"]})
        save_model(tmp_path / name, model, dtype=torch.float32)
    rich = "net.x" in goldens.modules
    names = (
        {"x": "net.x", "hint": "net.hint", "timesteps": "net.t", "context": "net.context"}
        if rich
        else {"x": "x_start", "hint": "hint_mask", "timesteps": "t", "context": "context"}
    )
    source = goldens.modules if rich else goldens.inputs
    inputs = {name: source[key].contiguous() for name, key in names.items()}
    inputs["timesteps"] = inputs["timesteps"].float()
    save_file(inputs, tmp_path / "inputs.safetensors")

    files = (tmp_path / file for file in (name, "inputs.safetensors", "out.safetensors"))
    result = inside(installation, "control_outputs", *files)

    outputs = load_file(tmp_path / "out.safetensors")
    compared = 0
    for index, output in outputs.items():
        if rich:
            wanted = goldens.modules[f"net.control.{index}"]
        elif f"control.{index}" in goldens.modules:
            wanted, output = goldens.modules[f"control.{index}"], output[:, ::8]
        else:
            continue
        compared += 1
        assert (output - wanted).abs().max() <= 1e-4, f"{FOLDER.name}: control {index}"
    assert compared >= 2
    assert len(outputs) == 13
    # The hint block ran once for both calls, and its features went with the hint.
    assert result == {"equal_again": 1, "kept": 1, "kept_after": 0}


def test_partial_loading_and_unloading_leave_the_model_as_it_was(
    installation: Installation, adapter: Path
) -> None:
    result = inside(installation, "model_management", shipped.MODEL, adapter)

    assert {"BaseModel", "DHIControlNet"} <= set(result["managed"])
    assert result["decoder_error"] <= 1e-6
    assert result["model_in_part"] and result["control_in_part"]
    assert result["part_error"] <= 1e-4
    assert result["changed_by_adapter"] > 1e-3
    assert result["restored"]


def test_the_control_stays_on_its_device_and_does_not_wait_for_it(installation: Installation) -> None:
    rules = Path(one_device.__file__)
    assert inside(installation, "control_on_one_device", shipped.MODEL, rules) == ["meta"] * 26


def test_a_training_step_in_the_host_stays_on_its_device_and_does_not_wait(
    installation: Installation,
) -> None:
    rules = Path(one_device.__file__)
    found = inside(installation, "training_on_one_device", shipped.MODEL, rules)

    assert found["losses"] == ["meta"] * 5
    assert set(found["gradients"]) == {"meta"}


def test_no_sample_of_a_stochastic_sampler_depends_on_its_batch(
    installation: Installation, tmp_path: Path
) -> None:
    found = inside(installation, "stochastic_samplers", tmp_path / "none")
    assert {"dpmpp_2m_sde", "euler_ancestral", "dpmpp_sde"} <= found.keys()
    assert not {name: difference for name, difference in found.items() if not difference <= 1e-4}
