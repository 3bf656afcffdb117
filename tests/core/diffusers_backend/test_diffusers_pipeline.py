"""A trained model in diffusers' own hands: saved, loaded, run in its pipelines, beside other ControlNets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DPMSolverMultistepScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from siamese_core.architecture import Prediction
from siamese_core.diffusers_backend.diffusers_export import write_folder
from siamese_core.diffusers_backend.networks import DHIControlNet
from siamese_core.seeds import sample_seed, starting_noise
from siamese_core.weights.key_layouts import decoder_keys
from siamese_core.weights.model_file import load_model
from tests.support.commands import run_here
from tests.support.small_models import PROMPT, SIDE, small_networks, write_full
from training import generate

STEPS, GUIDANCE, SEED = 4, 3.0, 42


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_full(tmp_path_factory.mktemp("full") / "full.safetensors", "epsilon")


@pytest.fixture(scope="module")
def folder(full: Path) -> Path:
    write_folder(full.with_name("folder"), load_model(full))
    return full.with_name("folder")


@pytest.fixture
def pipe(folder: Path) -> Any:
    return pipeline(folder)


@pytest.fixture(scope="module")
def generated(folder: Path, mask: Path) -> NDArray[np.float32]:
    """What the pipeline generates for the mask."""
    return sample(pipeline(folder), mask)


@pytest.fixture(scope="module")
def mask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[16:40, 20:50] = 255
    path = tmp_path_factory.mktemp("masks") / "polyp.png"
    Image.fromarray(pixels).save(path)
    return path


def pipeline(folder: Path) -> Any:
    control = DHIControlNet.from_pretrained(str(folder / "controlnet"))
    pipe = StableDiffusionControlNetPipeline.from_pretrained(str(folder), controlnet=control)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe: Any, mask: Path, **changes: Any) -> NDArray[np.float32]:
    """The image (64, 64, 3) in 0..255 that a pipeline generates with our settings and starting noise."""
    hint = torch.from_numpy(np.asarray(Image.open(mask)) > 127)[None, None].expand(1, 3, -1, -1).float()
    settings = {
        "prompt": PROMPT,
        "negative_prompt": "",
        "image": hint,
        "latents": starting_noise(sample_seed(SEED, 0), SIDE // 8, SIDE // 8),
        "num_inference_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "output_type": "np",
    }
    return pipe(**{**settings, **changes}).images[0] * 255.0


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_pipeline_gives_the_images_of_training_generate(
    prediction: Prediction, mask: Path, tmp_path: Path
) -> None:
    full = write_full(tmp_path / "full.safetensors", prediction)
    write_folder(tmp_path / "folder", load_model(full))
    flags = ("--steps", STEPS, "--guidance", GUIDANCE, "--seed", SEED)
    outcome = run_here(
        generate.main, "--checkpoint", full, "--masks", mask, "--output", tmp_path / "out", *flags
    )
    assert outcome.status == 0, outcome.errors
    ours = np.asarray(Image.open(tmp_path / "out" / "images" / "polyp.png")).astype(np.float32)

    theirs = sample(pipeline(tmp_path / "folder"), mask)

    assert theirs.shape == ours.shape
    assert np.abs(theirs - ours).max() <= 0.6  # ours is rounded to whole numbers
    assert ours.std() > 5


def test_a_model_written_in_fp16_runs_as_the_documents_load_it(
    full: Path, mask: Path, tmp_path: Path
) -> None:
    write_folder(tmp_path / "half", load_model(full), torch.float16)
    pipe = pipeline(tmp_path / "half")
    parts = (pipe.unet, pipe.vae, pipe.text_encoder, pipe.controlnet)
    assert {part.dtype for part in parts} == {torch.float32}
    assert np.isfinite(sample(pipe, mask)).all()


def test_control_of_strength_0_is_no_control(
    pipe: Any, folder: Path, mask: Path, generated: NDArray[np.float32]
) -> None:
    plain = StableDiffusionPipeline.from_pretrained(str(folder))
    plain.set_progress_bar_config(disable=True)

    without = sample(pipe, mask, controlnet_conditioning_scale=0.0)

    assert np.array_equal(without, sample_plain(plain))
    assert np.abs(generated - without).max() > 2


def sample_plain(pipe: Any) -> NDArray[np.float32]:
    noise = starting_noise(sample_seed(SEED, 0), SIDE // 8, SIDE // 8)
    images = pipe(
        PROMPT,
        negative_prompt="",
        latents=noise,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        output_type="np",
    ).images
    return images[0] * 255.0


def test_the_control_network_survives_its_own_saving_and_loading(full: Path, tmp_path: Path) -> None:
    network = small_networks(load_model(full).architecture).control
    network.save_pretrained(str(tmp_path))

    again = DHIControlNet.from_pretrained(str(tmp_path))

    assert again.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in network.state_dict().items())
    inputs = (
        torch.randn(2, 4, 8, 8),
        torch.tensor([3, 800]),
        torch.randn(2, 77, 32),
        torch.rand(2, 3, 64, 64),
    )
    with torch.no_grad():
        down, middle = again(*inputs, return_dict=False)
        latent, t, context, hint = inputs
        expected = network.control(latent, t, context, network.hint_features(hint))
    for found, wanted in zip([*down, middle], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_another_controlnet_runs_beside_ours(pipe: Any, mask: Path, generated: NDArray[np.float32]) -> None:
    torch.manual_seed(7)
    stock = ControlNetModel.from_unet(pipe.unet)
    pipe = StableDiffusionControlNetPipeline(**{**pipe.components, "controlnet": [pipe.controlnet, stock]})
    pipe.set_progress_bar_config(disable=True)
    hint = torch.rand(1, 3, SIDE, SIDE)
    ours = torch.from_numpy(np.asarray(Image.open(mask)) > 127)[None, None].expand(1, 3, -1, -1).float()

    silent = sample(pipe, mask, image=[ours, hint], controlnet_conditioning_scale=[1.0, 1.0])
    for block in stock.controlnet_down_blocks:
        nn.init.normal_(block.weight, std=0.1)
    both = sample(pipe, mask, image=[ours, hint], controlnet_conditioning_scale=[1.0, 1.0])

    assert np.abs(silent - generated).max() <= 1e-2  # a new ControlNet's outputs are zeros
    assert np.abs(both - generated).max() > 2


def test_another_sampler_runs(pipe: Any, mask: Path) -> None:
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)

    assert np.isfinite(sample(pipe, mask)).all()


def test_a_lora_loads_onto_the_tuned_unet(pipe: Any, mask: Path, generated: NDArray[np.float32]) -> None:
    pytest.importorskip("peft")
    rng = torch.Generator().manual_seed(3)
    lora = {}
    for name, module in pipe.unet.named_modules():
        if name.endswith("to_q"):
            wide, narrow = module.weight.shape
            lora[f"unet.{name}.lora_A.weight"] = torch.randn((4, narrow), generator=rng)
            lora[f"unet.{name}.lora_B.weight"] = torch.randn((wide, 4), generator=rng)
    pipe.load_lora_weights(lora)

    assert np.abs(sample(pipe, mask) - generated).max() > 1
    pipe.unload_lora_weights()
    assert np.array_equal(sample(pipe, mask), generated)


def test_the_adapter_of_a_full_model_holds_its_decoder(full: Path) -> None:
    unet = load_model(full).parts["unet"]
    assert {key.split(".")[0] for key in decoder_keys(unet)} == {"output_blocks", "out"}
