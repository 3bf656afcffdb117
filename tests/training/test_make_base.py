"""The make_base command, run as a user runs it: images in, a base model in both layouts out."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.many_pairs import SIDE
from siamese_core.architecture import LATENT_SCALE
from siamese_core.diffusers_backend.base_model import Base, load_base
from siamese_core.diffusers_backend.pair_encoding import encode_moments
from siamese_core.weights.model_file import load_model
from tests.support.commands import Outcome, SignalInStep, run_here
from tests.support.folders import read_tree
from training import make_base

STEPS = 4


def make(images: Path, output: Path, *more: object) -> Outcome:
    """Run the command for a few steps of either training; later flags win."""
    return run_here(
        make_base.main,
        *("--images", images, "--output", output, "--resolution", SIDE, "--save-every", 2),
        *("--unet-widths", 32, 32, 64, 64, "--vae-widths", 32, 32, 32, 32),
        *("--vae-steps", STEPS, "--vae-batch-size", 2, "--vae-crop", 32),
        *("--unet-steps", STEPS, "--unet-batch-size", 2),
        *more,
    )


def networks(base: Base) -> dict[str, dict[str, Tensor]]:
    modules = {"unet": base.unet, "vae": base.vae, "text": base.text_encoder}
    return {name: module.state_dict() for name, module in modules.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Path:
    """The folder of a run that nothing interrupted."""
    output = tmp_path_factory.mktemp("make_base") / "run"
    outcome = make(pairs, output)
    assert outcome.status == 0, outcome.errors
    assert str(output / "diffusers") in outcome.output
    assert str(output / "base.safetensors") in outcome.output
    return output


def test_both_layouts_hold_the_same_base(made: Path) -> None:
    folder, file = load_base(made / "diffusers"), load_base(made / "base.safetensors")
    assert file.architecture == folder.architecture
    assert file.architecture.unet.widths == (32, 32, 64, 64)
    assert file.architecture.resolution == SIDE
    wanted = networks(folder)
    for name, weights in networks(file).items():
        assert weights.keys() == wanted[name].keys()
        for key, weight in weights.items():
            assert torch.equal(weight, wanted[name][key].half().to(weight.dtype)), f"{name}: {key}"


def test_the_file_records_how_the_base_was_made(made: Path) -> None:
    model = load_model(made / "base.safetensors")
    assert (model.kind, model.training["command"], model.training["images"]) == ("base", "make_base", 6)
    assert model.training["vae"]["steps"] == STEPS
    assert model.run_id


@pytest.mark.parametrize("layout", ["diffusers", "base.safetensors"])
def test_latents_have_mean_0_and_deviation_1_in_every_channel(layout: str, made: Path, pairs: Path) -> None:
    images = torch.stack([pixels(path) for path in sorted((pairs / "images").iterdir())])
    mean, deviation = encode_moments(load_base(made / layout).vae, images).mul(LATENT_SCALE).unbind(dim=1)
    assert mean.mean(dim=(0, 2, 3)).abs().max() < 0.01
    spread = mean.var(dim=(0, 2, 3)) + deviation.square().mean(dim=(0, 2, 3))
    assert torch.allclose(spread, torch.ones(4), atol=0.02)


def pixels(path: Path) -> Tensor:
    with Image.open(path) as image:
        values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return values.reshape(SIDE, SIDE, 3).permute(2, 0, 1)


def test_pictures_and_logs_show_what_was_learnt(made: Path) -> None:
    for name in ("vae", "unet"):
        rows = [json.loads(line) for line in (made / f"{name}.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(STEPS))
    gap = 2
    with Image.open(made / "reconstructions.png") as image:
        assert image.size == (6 * (SIDE + gap) - gap, 2 * SIDE + gap)
    with Image.open(made / "samples.png") as image:
        assert image.size == (8 * (SIDE + gap) - gap, 2 * SIDE + gap)


def test_a_vae_can_be_taken_as_it_is_and_the_rest_started_anew(
    made: Path, pairs: Path, tmp_path: Path
) -> None:
    start = made / "base.safetensors"
    run = tmp_path / "run"

    outcome = make(
        pairs, run, "--init", start, "--restart-unet", "--vae-steps", 0, "--unet-widths", 64, 64, 64, 64
    )

    assert outcome.status == 0, outcome.errors
    before, after = (load_model(path) for path in (start, run / "base.safetensors"))
    assert after.architecture.unet.widths == (64, 64, 64, 64)
    for key, weight in before.parts["vae"].items():
        assert torch.equal(after.parts["vae"][key], weight)
    text = "text_model.embeddings.token_embedding.weight"
    key = next(name for name in before.parts["text"] if name.endswith(text))
    assert not torch.equal(after.parts["text"][key], before.parts["text"][key])


def test_a_decoder_alone_can_be_improved(made: Path, pairs: Path, tmp_path: Path) -> None:
    start, run = made / "base.safetensors", tmp_path / "run"

    outcome = make(
        pairs, run, "--init", start, "--vae-decoder-only", "--vae-latent-noise", 0.3, "--unet-steps", 0
    )

    assert outcome.status == 0, outcome.errors
    before, after = (load_model(path).parts for path in (start, run / "base.safetensors"))
    changed = {key for key, weight in before["vae"].items() if not torch.equal(after["vae"][key], weight)}
    assert "decoder.conv_in.weight" in changed
    assert not [key for key in changed if key.startswith(("encoder.", "quant_conv."))]
    for part in ("unet", "text"):
        assert all(torch.equal(after[part][key], weight) for key, weight in before[part].items())


def test_a_decoder_with_critics_is_resumed_exactly(
    made: Path, pairs: Path, signal_in_step: SignalInStep, tmp_path: Path
) -> None:
    flags: tuple[object, ...] = ("--init", made / "base.safetensors", "--vae-decoder-only", "--unet-steps", 0)
    flags += ("--vae-perceptual-weight", 0.2, "--vae-adversarial-weight", 0.05)
    assert make(pairs, tmp_path / "whole", *flags).status == 0
    signal_in_step("vae", 1, signal.SIGINT)
    assert make(pairs, tmp_path / "run", *flags).status == 128 + signal.SIGINT

    assert make(pairs, tmp_path / "run", *flags, "--resume").status == 0

    whole, run = ((tmp_path / name / "vae.jsonl").read_text() for name in ("whole", "run"))
    assert run == whole
    assert {"perceptual", "adversarial", "discriminator"} <= json.loads(whole.splitlines()[-1]).keys()


@pytest.mark.slow
def test_a_run_stopped_in_either_training_repeats_the_uninterrupted_one(
    made: Path,
    pairs: Path,
    signal_in_step: SignalInStep,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    signal_in_step("vae", 2, signal.SIGINT)
    signal_in_step("unet", 0, signal.SIGTERM)
    in_vae = make(pairs, run)
    assert in_vae.status == 128 + signal.SIGINT
    assert "stopped after 3 steps" in in_vae.output
    in_unet = make(pairs, run, "--resume")
    assert in_unet.status == 128 + signal.SIGTERM
    assert "stopped after 1 steps" in in_unet.output
    assert not (run / "base.safetensors").exists()

    resumed = make(pairs, run, "--resume")
    assert resumed.status == 0, resumed.errors
    for log in ("vae.jsonl", "unet.jsonl"):
        assert (run / log).read_text() == (made / log).read_text()
    found, wanted = (load_model(folder / "base.safetensors").parts for folder in (run, made))
    for part, weights in wanted.items():
        assert found[part].keys() == weights.keys()
        for key, weight in weights.items():
            assert torch.equal(found[part][key], weight), f"{part}: {key}"


def test_a_stop_in_the_last_step_of_the_vae_keeps_the_unet_from_beginning(
    pairs: Path, signal_in_step: SignalInStep, tmp_path: Path
) -> None:
    signal_in_step("vae", STEPS - 1, signal.SIGINT)

    outcome = make(pairs, tmp_path / "run")

    assert outcome.status == 128 + signal.SIGINT
    assert f"stopped after {STEPS} steps" in outcome.output
    assert not (tmp_path / "run" / "unet.jsonl").exists()


def test_a_run_is_not_resumed_with_other_settings(made: Path, pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made / "checkpoints" / "vae", run / "checkpoints" / "vae")
    refusal = make(pairs, run, "--resume", "--seed", 7).refusal
    assert "belongs to another run: seed was" in refusal
    assert not (run / "base.safetensors").exists()


def test_a_run_is_not_resumed_with_other_prompts_but_older_records_do_not_name_them(
    made: Path, pairs: Path, tmp_path: Path
) -> None:
    images, run = tmp_path / "pairs", tmp_path / "run"
    shutil.copytree(pairs, images)
    shutil.copytree(made / "checkpoints" / "vae", run / "checkpoints" / "vae")
    listing = images / "prompt.json"
    listing.write_text(listing.read_text("utf-8").replace('"prompt": "', '"prompt": "other '), "utf-8")
    assert "image_prompts was" in make(images, run, "--resume").refusal
    for record in run.rglob("*.json"):
        found = json.loads(record.read_text("utf-8"))
        if found.pop("image_prompts", None):
            record.write_text(json.dumps(found), "utf-8")
    resumed = make(images, run, "--resume")
    assert resumed.status == 0, resumed.errors


def test_widths_that_init_gives_are_told_and_recorded(made: Path, pairs: Path, tmp_path: Path) -> None:
    start, widths = made / "base.safetensors", (64, 64, 128, 128)
    flags = ("--init", start, "--unet-widths", *widths, "--vae-steps", 0, "--unet-steps", 1)
    outcome = make(pairs, tmp_path / "run", *flags)
    assert "--unet-widths has no effect: " in outcome.output and "has 32 32 64 64" in outcome.output
    file = load_model(tmp_path / "run" / "base.safetensors")
    assert file.training["unet_widths"] == [32, 32, 64, 64]


def test_resuming_nothing_is_refused(pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert make(pairs, run, "--resume").refusal.startswith(f"{run}: no checkpoint to resume from")
    assert not run.exists()


def test_a_folder_that_holds_something_is_not_written_to(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert make(pairs, tmp_path).refusal.startswith(f"{tmp_path}: not empty")
    assert read_tree(tmp_path) == {"notes.txt": b"mine"}


def test_a_folder_without_images_is_refused_and_leaves_the_output_folder_unused(tmp_path: Path) -> None:
    empty, run = tmp_path / "empty", tmp_path / "run"
    empty.mkdir()
    assert make(empty, run).refusal.startswith(f"{empty}: no image files")
    assert make(tmp_path / "nowhere", run).refusal.startswith(f"{tmp_path / 'nowhere'}: no such folder")
    assert not run.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--unet-widths", 32, 64), "--unet-widths needs four positive multiples of 32, not 32 64"),
        (("--vae-widths", 32, 32, 40, 64), "--vae-widths must be a positive multiple of 32, not 40"),
        (
            ("--unet-widths", 64, 64, 96, 128),
            "--unet-widths: every width must be a multiple of the first, 64",
        ),
        (("--resolution", 100), "--resolution must be a positive multiple of 64, not 100"),
        (("--vae-steps", 0), "--vae-steps must be at least 1, or 0 with --init, not 0"),
        (("--unet-steps", 0), "--unet-steps must be at least 1, or 0 with --init and its UNet, not 0"),
        (("--vae-decoder-only",), "--vae-decoder-only needs --init"),
        (("--vae-latent-noise", -1), "--vae-latent-noise must be 0 or more, not -1"),
        (("--restart-unet",), "--restart-unet needs --init"),
        (("--resolution", 0), "--resolution must be a positive multiple of 64, not 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    flags: tuple[object, ...], message: str, pairs: Path, tmp_path: Path
) -> None:
    assert make(pairs, tmp_path / "run", *flags).refusal.startswith(message)
    assert not (tmp_path / "run").exists()
