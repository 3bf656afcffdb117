"""Damaged model files, and files that are no models: read, or refused with a sentence that names the file."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from siamese_core.diffusers_backend.diffusers_export import write_folder
from siamese_core.errors import UserError
from siamese_core.weights.diffusers_folder import read_model as read_folder
from siamese_core.weights.model_file import load_model, save_model
from siamese_core.weights.tensor_files import read_metadata
from tests.support.fuzzing import inputs, json_values, refusal
from tests.support.model_files import make_model
from training.evaluation.metrics.features import torchscript
from training.pretrained.weight_files import read_tensors
from training.segmentation.fitting import Segmenter, load_segmenter, save_segmenter
from training.segmentation.networks.registry import build_network

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")

TOKENS = (
    b'"dtype":"F64"',
    b'"I8"',
    b'"BOOL"',
    b'"F8_E4M3"',
    b'"shape":[',
    b"[99999999999,99999999999]",
    b"-1",
    b"[[",
)
TOKENS += (
    b'"data_offsets":[0,0]',
    b"18446744073709551615",
    b'"__metadata__"',
    b"{}",
    b'"',
    b"\\ud800",
    b"[" * 500,
)


def header_and_weights(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def as_file(header: Any, weights: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + weights


def read_model(path: Path) -> None:
    load_model(path)
    read_metadata(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    for kind in ("control", "base"):
        save_model(folder / f"{kind}.safetensors", make_model(kind))
    return [folder / "control.safetensors", folder / "base.safetensors"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("diffusers") / "model"
    write_folder(path, make_model("base"))
    return path


def test_damaged_headers_and_weights(models: list[Path], tmp_path: Path) -> None:
    path, refused = tmp_path / "damaged.safetensors", 0
    seeds = [as_file(header, weights) for header, weights in map(header_and_weights, models)]
    for data in inputs(seeds, 300, TOKENS):
        path.write_bytes(data)
        refused += refusal(lambda: read_model(path), path.name) is not None
    assert refused > 200


def test_headers_that_say_something_else(models: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    for source in models:
        header, weights = header_and_weights(source)
        for value in json_values([header], 120):
            path.write_bytes(as_file(value, weights))
            refusal(lambda: read_model(path), path.name)


@pytest.mark.parametrize("field", ["siamese.architecture", "siamese.training", "siamese.kind"])
def test_records_that_say_something_else(models: list[Path], tmp_path: Path, field: str) -> None:
    path = tmp_path / "damaged.safetensors"
    header, weights = header_and_weights(models[0])
    text = header["__metadata__"][field]
    record = text if field == "siamese.kind" else json.loads(text)
    for number, value in enumerate(json_values([record], 80)):
        damaged = value if isinstance(value, str) and number % 2 else json.dumps(value)
        metadata = {**header["__metadata__"], field: damaged}
        path.write_bytes(as_file({**header, "__metadata__": metadata}, weights))
        refusal(lambda: read_model(path), path.name)


def test_names_of_any_length_make_no_long_message(models: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "named.safetensors"
    header, weights = header_and_weights(models[0])
    for prefix in ("", "control_model."):
        header[prefix + "x" * 100_000] = header.pop(list(header)[-1])
        path.write_bytes(as_file(header, weights))
        assert "unexpected" in str(refusal(lambda: read_model(path), path.name))


def test_records_of_endless_networks(models: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "endless.safetensors"
    header, weights = header_and_weights(models[1])
    record = json.loads(header["__metadata__"]["siamese.architecture"])
    for part, name in [(p, name) for p in ("unet", "vae", "text") for name in record[p]]:
        for value in (10**9, [32] * 1000, [10**12], -1, 0, 0.5, True, None):
            changed = {**record, part: {**record[part], name: value}}
            metadata = {**header["__metadata__"], "siamese.architecture": json.dumps(changed)}
            path.write_bytes(as_file({**header, "__metadata__": metadata}, weights))
            refusal(lambda: read_model(path), path.name)


def test_a_header_that_claims_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "giant.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    assert "damaged" in str(refusal(lambda: read_model(path), path.name))
    with path.open("r+b") as file:
        file.truncate((1 << 40) + 8)  # sparse
    tracemalloc.start()
    assert "damaged" in str(refusal(lambda: read_model(path), path.name))
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


class Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        import os

        return os.system, ("touch /tmp/evil",)


def pickles() -> list[bytes]:
    """Files of torch.save, old and new, a bare pickle, and ones that would run a program."""
    files = []
    for content in ({"a": torch.ones(3), "b.weight": torch.zeros(2, 2)}, [1, 2], {"a": Evil()}):
        files.append(pickle.dumps(content))
        for new in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=new)
            files.append(buffer.getvalue())
    return files


@pytest.mark.parametrize("name", ["model.ckpt", "model.pth", "model.pt", "model.bin", "model.safetensors"])
def test_pickles_that_are_no_models(tmp_path: Path, name: str) -> None:
    for data in (*pickles(), *inputs(pickles(), 30)):
        (tmp_path / name).write_bytes(data)
        assert refusal(lambda: load_model(tmp_path / name), name) is not None


def test_damaged_pickles_in_whole_archives(models: list[Path], tmp_path: Path) -> None:
    """The archive is rewritten around the damaged pickle, so that the unpickler gets to see it."""
    path, buffer = tmp_path / "model.pth", io.BytesIO()
    torch.save(load_file(models[0]), buffer)
    with zipfile.ZipFile(buffer) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (pickled,) = [name for name in members if name.endswith("data.pkl")]
    tokens = (
        b"cos\nsystem\n",
        b"cbuiltins\neval\n",
        b"R",
        b"\x93",
        b"(lp0\n",
        b"\x8c\xff",
        b"J\xff\xff\xff\x7f",
        b"\x81",
    )
    for data in inputs([members[pickled]], 100, tokens):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, data if name == pickled else content)
        refusal(lambda: load_model(path), path.name)


def test_weights_of_metrics_run_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for data in (*pickles(), *inputs(pickles(), 300, (b"cos\nsystem\n", b"\x80\x02", b"R.", b"PK\3\4"))):
        path.write_bytes(data)
        refusal(lambda: read_tensors(path), path.name)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_weights_of_metrics_that_would_unpack_to_far_more_are_not_opened(
    tmp_path: Path, compression: int
) -> None:
    path, buffer = tmp_path / "weights.pth", io.BytesIO()
    torch.save({"features.0.weight": torch.zeros(1_000_000)}, buffer)
    with zipfile.ZipFile(buffer) as whole, zipfile.ZipFile(path, "w", compression) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))

    message = refusal(lambda: read_tensors(path), path.name)

    assert message is not None and "compressed archive" in message


def test_weights_of_metrics_in_the_format_before_archives_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)

    assert torch.equal(read_tensors(path)["a"], torch.ones(3))


def test_damaged_segmenters(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.safetensors", tmp_path / "damaged.safetensors"
    save_segmenter(whole, Segmenter(build_network("small-unet", seed=0), "small-unet", 64))
    header, weights = header_and_weights(whole)
    for data in inputs([as_file(header, weights)], 50, TOKENS):
        path.write_bytes(data)
        refusal(lambda: load_segmenter(path), path.name)
    about = json.loads(header["__metadata__"]["siamese.segmenter"])
    for value in json_values([about], 50):
        metadata = {**header["__metadata__"], "siamese.segmenter": json.dumps(value)}
        path.write_bytes(as_file({**header, "__metadata__": metadata}, weights))
        refusal(lambda: load_segmenter(path), path.name)


def test_other_people_s_files_of_weights(tmp_path: Path) -> None:
    """Keys of Stable Diffusion with shapes that no such network has."""
    path = tmp_path / "other.safetensors"
    keys = (
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.input_blocks.1.0.out_layers.3.weight",
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight",
        "control_model.zero_convs.0.0.weight",
        "control_model.input_hint_block.0.weight",
        "first_stage_model.encoder.down.0.block.0.conv1.weight",
        "first_stage_model.post_quant_conv.weight",
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
        "model.diffusion_model.input_blocks.99999999999999999999.0.op.weight",
        "zero_convs.0.0.weight",
    )
    shapes: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (32, 4, 3, 3), (0, 0), (3, 0, 3, 3), (7, 5))
    for number in range(300):
        chosen = {
            key: torch.zeros(shapes[(number * 31 + k * 7) % len(shapes)])
            for k, key in enumerate(keys)
            if number >> k & 1 or k == number % 11
        }
        path.write_bytes(save(chosen))
        refusal(lambda: read_model(path), path.name)


@pytest.mark.parametrize("index", ["1000000000", "999999999", "9" * 5000], ids=len)
def test_block_numbers_of_endless_networks(tmp_path: Path, index: str) -> None:
    path = tmp_path / "endless.safetensors"
    shapes = {
        "input_blocks.0.0.weight": (32, 4, 3, 3),
        "input_blocks.1.0.out_layers.3.weight": (32, 32, 3, 3),
        "middle_block.1.transformer_blocks.0.attn2.to_k.weight": (32, 32),
        "middle_block.1.proj_in.weight": (32, 32, 1, 1),
        f"input_blocks.{index}.0.op.weight": (1,),
    }
    path.write_bytes(save({f"control_model.{key}": torch.zeros(shape) for key, shape in shapes.items()}))
    tracemalloc.start()
    assert refusal(lambda: read_model(path), path.name) is not None
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


UNFIT_CONFIGS: list[dict[str, Any]] = [
    *({"layers_per_block": value} for value in (10**9, -1, "2", [2, 2], None)),
    *({"block_out_channels": value} for value in ([], 320, ["a"], [10**12, 32], [32] * 1000)),
    *({"attention_head_dim": value} for value in ([0, 1], [5, 10, 20, 20], [], ["a", "b"], [1, None], 0)),
    {"cross_attention_dim": [32, 32]},
    {"use_linear_projection": True, "attention_head_dim": [1, 1], "block_out_channels": []},
]


@pytest.mark.parametrize("changed", UNFIT_CONFIGS, ids=str)
def test_folders_whose_configuration_no_network_has(tmp_path: Path, changed: dict[str, Any]) -> None:
    config = {
        "_class_name": "ControlNetModel",
        "block_out_channels": [32, 32],
        "cross_attention_dim": 32,
    }
    (tmp_path / "config.json").write_text(json.dumps({**config, **changed}))
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(save({"a": torch.zeros(1)}))
    assert f"{tmp_path.name}/config.json" in str(refusal(lambda: read_folder(tmp_path), tmp_path.name))


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("unet", {"sample_size": "x"}),
        ("unet", {"sample_size": 1e400}),
        ("vae", {"layers_per_block": 10**9}),
        ("vae", {"block_out_channels": []}),
        ("text_encoder", {"num_hidden_layers": 10**9}),
        ("text_encoder", {"vocab_size": 10**12}),
    ],
    ids=str,
)
def test_the_configuration_that_does_not_fit_is_named(
    folder: Path, tmp_path: Path, part: str, changed: dict[str, Any]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = copy / part / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changed}))
    assert f"{part}/config.json" in str(refusal(lambda: read_folder(copy), copy.name))


def test_files_that_are_no_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "features.pt"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("features/data.pkl", pickle.dumps(Evil()))
        archive.writestr("features/version", "3\n")
    for data in (buffer.getvalue(), *pickles(), b"", b"x" * 100):
        path.write_bytes(data)
        refusal(lambda: torchscript(path, 64), path.name)


def test_a_folder_or_nothing_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("folder.safetensors", "nothing.safetensors"):
        with pytest.raises((UserError, FileNotFoundError), match=name):
            load_model(tmp_path / name)
