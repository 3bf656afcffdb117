"""Reading and writing bases, and full models as networks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from siamese_core.diffusers_backend.base_model import (
    Base,
    BaseError,
    base_file,
    base_from_file,
    build_base,
    load_base,
    save_base,
)
from siamese_core.diffusers_backend.prompt_encoding import tokenize
from siamese_core.diffusers_backend.siamese_model import model_from_file
from siamese_core.method.noise_schedule import alphas_cumprod
from siamese_core.weights.key_layouts import decoder_keys, to_ldm
from siamese_core.weights.model_file import CheckpointError, ModelFile, load_model, save_model
from tests.support.small_models import ARCHITECTURE, small_base, small_networks

TRAINING = {"command": "make_base", "images": 3}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The small base as a diffusers folder and as a single file."""
    return save_base(small_base(), tmp_path_factory.mktemp("base"), TRAINING, "run-3")


@pytest.fixture
def folder(saved: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the saved folder, to be changed."""
    return Path(shutil.copytree(saved[0], tmp_path / "copy"))


def weights(base: Base) -> dict[str, Tensor]:
    modules = {"unet": base.unet, "vae": base.vae, "text": base.text_encoder}
    return {
        f"{part}.{name}": value
        for part, module in modules.items()
        for name, value in module.state_dict().items()
    }


def full_model() -> ModelFile:
    base = small_base()
    control = to_ldm("control", small_networks().control.state_dict(), ARCHITECTURE)
    whole = base_file(base, {"prompt": "a polyp"}, "run-4")
    return replace(whole, kind="full", parts={**whole.parts, "control": control})


def adapter() -> ModelFile:
    full = full_model()
    unet = full.parts["unet"]
    parts = {"unet": {key: unet[key] for key in decoder_keys(unet)}, "control": full.parts["control"]}
    return replace(full, kind="adapter", parts=parts)


def edit_json(path: Path, changes: Mapping[str, object]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def edit_weights(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def assert_equal(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert not [name for name, value in actual.items() if not torch.equal(value, expected[name])]


def assert_usable(base: Base) -> None:
    """Float32 on the CPU, nothing left on the meta device, nothing in training mode."""
    for module in (base.unet, base.vae, base.text_encoder):
        assert not module.training
        assert all(tensor.device.type == "cpu" for tensor in (*module.parameters(), *module.buffers()))
        assert all(weight.dtype == torch.float32 for weight in module.parameters())


def test_a_base_is_a_function_of_its_seed_and_leaves_global_randomness_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()

    again, other = build_base(ARCHITECTURE, seed=3), build_base(ARCHITECTURE, seed=4)

    assert torch.equal(torch.get_rng_state(), state)
    assert_equal(weights(again), weights(small_base()))
    assert not torch.equal(other.unet.conv_in.weight, again.unet.conv_in.weight)


def test_a_folder_gives_back_the_base(saved: tuple[Path, Path]) -> None:
    base = load_base(saved[0])

    assert base.architecture == ARCHITECTURE
    assert_usable(base)
    assert_equal(weights(base), weights(small_base()))
    assert torch.equal(tokenize(base.tokenizer, ["a polyp"]), tokenize(small_base().tokenizer, ["a polyp"]))


def test_a_single_file_gives_back_the_base_in_half_precision(saved: tuple[Path, Path]) -> None:
    base = load_base(saved[1])

    assert base.architecture == ARCHITECTURE
    assert_usable(base)
    expected = {name: value.half().float() for name, value in weights(small_base()).items()}
    assert_equal(weights(base), expected)
    assert load_model(saved[1]).training == TRAINING
    assert load_model(saved[1]).run_id == "run-3"


def test_a_trained_model_is_no_base(tmp_path: Path) -> None:
    save_model(tmp_path / "full.safetensors", full_model(), dtype=torch.float32)

    with pytest.raises(BaseError, match="a finished Siamese model, whose trained ControlNet"):
        load_base(tmp_path / "full.safetensors")


def test_the_folders_scheduler_is_the_one_that_was_trained_with(saved: tuple[Path, Path]) -> None:
    scheduler = DDIMScheduler.from_pretrained(str(saved[0] / "scheduler"), local_files_only=True)

    torch.testing.assert_close(scheduler.alphas_cumprod, alphas_cumprod(), rtol=1e-4, atol=0)
    scheduler.set_timesteps(50)
    assert scheduler.timesteps.tolist() == list(range(981, 0, -20))
    assert not scheduler.config.clip_sample
    assert scheduler.final_alpha_cumprod == scheduler.alphas_cumprod[0]


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=r"none: no such base; give a diffusers folder, a"):
        load_base(tmp_path / "none")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base.ckpt").write_bytes(b"pickle")

    with pytest.raises(CheckpointError, match=r"base\.ckpt"):
        load_base(tmp_path / "base.ckpt")


def test_an_adapter_is_refused_by_name(tmp_path: Path) -> None:
    save_model(tmp_path / "mine.safetensors", adapter())

    with pytest.raises(
        BaseError, match=r"mine\.safetensors: this is an adapter, .* give a base or a full model"
    ):
        load_base(tmp_path / "mine.safetensors")


def test_a_folder_that_lacks_a_part_is_refused(folder: Path) -> None:
    shutil.rmtree(folder / "vae")

    with pytest.raises(
        CheckpointError, match=r"copy: not a diffusers model folder, vae/config\.json is missing"
    ):
        load_base(folder)


def test_what_a_base_predicts_is_read_from_its_scheduler(folder: Path) -> None:
    edit_json(folder / "scheduler/scheduler_config.json", {"prediction_type": "v_prediction"})

    assert load_base(folder).architecture == replace(ARCHITECTURE, prediction="v_prediction")


def test_a_base_that_predicts_the_image_is_refused(folder: Path) -> None:
    edit_json(folder / "scheduler/scheduler_config.json", {"prediction_type": "sample"})

    with pytest.raises(CheckpointError, match=r"copy: the base predicts 'sample'"):
        load_base(folder)


SCHEDULER = "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("file", "entry", "told"),
    [
        ("unet/config.json", {"norm_num_groups": 16}, "its unet has norm_num_groups 16, and only 32 is"),
        ("unet/config.json", {"flip_sin_to_cos": False}, "its unet has flip_sin_to_cos False"),
        ("vae/config.json", {"act_fn": "gelu"}, "its vae has act_fn gelu"),
        ("text_encoder/config.json", {"hidden_act": "relu"}, "its text encoder has hidden_act relu"),
        (SCHEDULER, {"beta_schedule": "linear"}, "its scheduler has beta_schedule linear"),
        (SCHEDULER, {"rescale_betas_zero_snr": True}, "its scheduler has rescale_betas_zero_snr True"),
    ],
)
def test_settings_that_make_another_network_of_the_same_weights_are_refused(
    file: str, entry: dict[str, object], told: str, folder: Path
) -> None:
    edit_json(folder / file, entry)
    with pytest.raises(CheckpointError, match=told):
        load_base(folder)


def test_a_folder_without_scheduler_is_taken_for_noise_prediction(folder: Path) -> None:
    shutil.rmtree(folder / "scheduler")

    assert load_base(folder).architecture == ARCHITECTURE


def test_an_inpainting_base_is_refused(folder: Path) -> None:
    config = {**small_base().unet.config, "in_channels": 9}
    UNet2DConditionModel.from_config(config).save_pretrained(str(folder / "unet"))

    with pytest.raises(
        CheckpointError, match=r"copy: this is an inpainting model: .* \(9 channels in, 4 out"
    ):
        load_base(folder)


def test_a_vae_of_another_scale_is_refused(folder: Path) -> None:
    edit_json(folder / "vae/config.json", {"scaling_factor": 0.13025})

    with pytest.raises(CheckpointError, match=r"copy: the VAE's scaling factor is 0\.13025, not 0\.18215"):
        load_base(folder)


@pytest.mark.parametrize(
    ("part", "file"),
    [
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ],
)
def test_missing_weights_are_not_replaced_by_random_ones(folder: Path, part: str, file: str) -> None:
    edit_weights(folder / part / f"{file}.safetensors", lambda tensors: tensors.pop(min(tensors)))

    with pytest.raises(CheckpointError, match=rf"{part}: its weights are not those .* 1 missing"):
        load_base(folder)


def test_a_folder_of_pickled_weights_is_read_as_weights_only(folder: Path) -> None:
    for path in [*folder.glob("*/diffusion_pytorch_model.safetensors"), *folder.glob("*/model.safetensors")]:
        name = "pytorch_model.bin" if path.stem == "model" else f"{path.stem}.bin"
        torch.save(load_file(path), path.with_name(name))
        path.unlink()

    assert_equal(weights(load_base(folder)), weights(small_base()))


def test_half_precision_variants_and_names_of_older_folders_are_read(folder: Path) -> None:
    for path in [*folder.glob("*/diffusion_pytorch_model.safetensors"), *folder.glob("*/model.safetensors")]:
        path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    text = load_file(folder / "text_encoder/model.fp16.safetensors")
    save_file(
        {
            **{f"text_model.{key}": value for key, value in text.items()},
            "text_model.embeddings.position_ids": torch.arange(77)[None],
        },
        folder / "text_encoder/model.fp16.safetensors",
    )
    path = folder / "vae/diffusion_pytorch_model.fp16.safetensors"
    vae = load_file(path)
    for new, before in old.items():
        vae = {key.replace(f"attentions.0.{new}", f"attentions.0.{before}"): vae[key] for key in vae}
    save_file(vae, path)

    assert_equal(weights(load_base(folder)), weights(small_base()))


def test_a_sharded_part_is_read_whole(folder: Path) -> None:
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, path.with_name(file))
    weight_map = {key: file for file, keys in shards.items() for key in keys}
    path.with_name(f"{path.name}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    path.unlink()

    assert_equal(weights(load_base(folder)), weights(small_base()))


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    edit_weights(path, lambda tensors: tensors.update({"conv_in.bias": torch.zeros(5)}))

    with pytest.raises(CheckpointError, match=r"unet: .* 1 misshapen \(conv_in\.bias is \(5,\) instead"):
        load_base(folder)


def test_a_unet_that_could_not_be_exported_is_refused_before_training(folder: Path) -> None:
    config = {name: value for name, value in small_base().unet.config.items() if name[0] != "_"}
    unet = UNet2DConditionModel(**{**config, "class_embed_type": "timestep"})
    unet.save_pretrained(str(folder / "unet"))

    with pytest.raises(CheckpointError, match=r"unet: .* 4 unexpected \(class_embedding"):
        load_base(folder)


def test_a_full_model_becomes_networks_that_hold_its_weights(tmp_path: Path) -> None:
    save_model(tmp_path / "full.safetensors", full_model(), dtype=torch.float32)

    model = model_from_file(load_model(tmp_path / "full.safetensors"))

    assert_equal(model.networks.control.state_dict(), small_networks().control.state_dict())
    assert_usable(model.base)
    assert not model.networks.control.training
    assert model.device == torch.device("cpu")
    assert model.networks.decoder.conv_out is model.base.unet.conv_out
    model.to("cpu")
    assert model.networks.decoder.conv_out is model.base.unet.conv_out
    shadow, live = model.networks.shadow.conv_out.weight, model.networks.decoder.conv_out.weight
    assert shadow.data_ptr() == live.data_ptr()


@pytest.mark.parametrize(
    ("kind", "message"), [("base", "this file is a base, not a full"), ("adapter", "this file is an adapter")]
)
def test_only_a_full_model_can_be_sampled_from(kind: str, message: str) -> None:
    file = adapter() if kind == "adapter" else base_file(small_base(), {}, "")

    with pytest.raises(BaseError, match=message):
        model_from_file(file)


def test_a_base_in_memory_survives_the_way_through_a_model_file() -> None:
    base = base_from_file(base_file(small_base(), TRAINING, "run"))

    assert_equal(weights(base), weights(small_base()))
