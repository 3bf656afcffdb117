"""Recordings of the published implementation, read into one form whatever their folder's format.

Two formats exist: the small one in ``tests/data/goldens`` (weights and inputs rebuilt from a formula) and the
rich one (``SIAMESE_GOLDENS`` names such a folder), which stores weights, inputs and full gradients.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from siamese_core.architecture import Architecture, UNetArchitecture
from siamese_core.diffusers_backend.base_model import build_unet
from siamese_core.diffusers_backend.networks import DHIControlNet, SiameseNetworks
from siamese_core.method.objective import TrainingBatch
from siamese_core.weights.key_layouts import split_parts, to_diffusers, to_ldm

FOLDER = Path(os.environ.get("SIAMESE_GOLDENS") or Path(__file__).parents[1] / "data" / "goldens")
_GAMMA, _MIX1, _MIX2 = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_SMALL_GAIN = ("zero_convs.", "middle_block_out.", "input_hint_block.1.", "out_layers.3.", "proj_out.")

TERMS = {"mask": "mask", "image": "image", "consistency": "consistency", "aug": "augmentation"}
"""The recordings' names of the losses' terms, and ours."""


@dataclass(frozen=True)
class TrainingCase:
    """Losses of one step k of N at timesteps t; gradients where the recording has them."""

    k: int
    total: int
    timesteps: Tensor
    loss: float
    augments: bool
    per_sample: Mapping[str, Tensor] = field(default_factory=dict)
    predictions: Mapping[str, Tensor] = field(default_factory=dict)
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    gradient_norms: Tensor | None = None
    gradient_projections: Tensor | None = None

    def __str__(self) -> str:
        return f"k{self.k}_N{self.total}_t{'-'.join(str(int(t)) for t in self.timesteps)}"


@dataclass(frozen=True)
class Goldens:
    manifest: dict[str, Any]
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    cases: list[TrainingCase]
    samplings: dict[str, dict[str, Tensor]]
    modules: dict[str, Tensor]
    schedule: dict[str, Tensor]

    def architecture(self) -> Architecture:
        config = self.manifest["config"]
        width = config["model_channels"]
        return Architecture(
            unet=UNetArchitecture(
                widths=tuple(width * factor for factor in config["channel_mult"]),
                layers_per_block=config["num_res_blocks"],
                num_heads=config["num_heads"],
                context_dim=config["context_dim"],
            )
        )

    def networks(self) -> SiameseNetworks:
        """Fresh networks with the recording's weights, through the strict key conversion."""
        architecture = self.architecture()
        parts, others = split_parts(self.weights)
        if others:
            raise ValueError(f"keys of no known part: {others[:3]}")
        unet, control = build_unet(architecture.unet), DHIControlNet.build(architecture)
        unet.load_state_dict(to_diffusers("unet", parts["unet"], architecture))
        control.load_state_dict(to_diffusers("control", parts["control"], architecture))
        return SiameseNetworks.assemble(unet, control)

    def batch(self, timesteps: Tensor) -> TrainingBatch:
        inputs = self.inputs
        return TrainingBatch(
            latent=inputs["x_start"],
            noise=inputs["noise"],
            timesteps=timesteps,
            context=inputs["context"],
            mask_hint=inputs["hint_mask"],
            image_hint=inputs["hint_image"],
        )


@cache
def load_goldens() -> Goldens:
    manifest = json.loads((FOLDER / "manifest.json").read_text("utf-8"))
    if (FOLDER / "weights.safetensors").exists():
        return _load_rich(manifest)
    return _load_small(manifest)


def named_gradients(networks: SiameseNetworks, architecture: Architecture) -> dict[str, Tensor]:
    """Gradients of the trained parameters under the recording's key names."""
    control = {name: weight.grad for name, weight in networks.control.named_parameters()}
    decoder = {name: weight.grad for name, weight in networks.decoder.named_parameters()}
    # The decoder is half a UNet; the conversion wants all of it.
    unet = {name: torch.zeros_like(weight) for name, weight in networks.encoder.named_parameters()}
    ldm_unet = to_ldm("unet", {**unet, **decoder}, architecture)
    result = {
        f"control_model.{name}": grad for name, grad in to_ldm("control", control, architecture).items()
    }
    for name, grad in ldm_unet.items():
        if name.startswith(("output_blocks.", "out.")):
            result[f"model.diffusion_model.{name}"] = grad
    return result


def check_gradients(goldens: Goldens, gradients: Mapping[str, Tensor], case: TrainingCase) -> None:
    """Assert that ``gradients``, by the recording's key names, are those of ``case``."""
    names = goldens.manifest["grad_param_names"]
    assert sorted(gradients) == sorted(names)
    total = case.gradient_norms.double().norm().item()
    for name, norm, projections in zip(names, case.gradient_norms, case.gradient_projections, strict=True):
        flat = gradients[name].double().flatten()
        tolerance = 1e-4 * float(norm) + 1e-6 * total
        assert abs(float(flat.norm()) - float(norm)) <= tolerance, name
        for stream, projection in enumerate(projections):
            assert abs(float(flat @ signs(len(flat), stream)) - float(projection)) <= 4 * tolerance, name
        if name in case.gradients:
            expected = case.gradients[name].double().flatten()
            assert float((flat - expected).norm()) <= tolerance, name


@cache
def signs(count: int, stream: int) -> Tensor:
    """The random signs r_s(j), float64 (count,), of projection ``stream``."""
    z = _finalise(np.arange(1, count + 1, dtype=np.uint64) + np.uint64(stream << 40))
    return torch.from_numpy(1.0 - 2.0 * (z & np.uint64(1)).astype(np.float64))


def _finalise(counter: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        z = counter * _GAMMA
        z = (z ^ (z >> np.uint64(30))) * _MIX1
        z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


def _fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    counter = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) + np.uint64(
        zlib.crc32(name.encode()) << 32
    )
    uniform = (_finalise(counter) >> np.uint64(11)).astype(np.float64) / 2.0**53
    return ((2.0 * uniform - 1.0) * np.sqrt(3.0)).astype(np.float32).reshape(shape)


def _formula_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    values = _fill(name, shape)
    if len(shape) >= 2:
        gain = 0.5 if any(part in name for part in _SMALL_GAIN) else 1.0
        values = values * np.float32(gain / np.sqrt(np.prod(shape[1:])))
    elif name.endswith("weight"):
        values = np.float32(1.0) + np.float32(0.1) * values
    else:
        values = np.float32(0.05) * values
    return torch.from_numpy(values)


def _formula_inputs(shapes: Mapping[str, list[int]], timesteps: list[int]) -> dict[str, Tensor]:
    inputs = {"t": torch.tensor(timesteps)}
    for name in ("x_start", "noise", "context", "uncond_context", "x_T"):
        inputs[name] = torch.from_numpy(_fill(name, tuple(shapes[name])))
    image = _fill("hint_image", tuple(shapes["hint_image"])) / np.float32(np.sqrt(3.0))
    image = np.round((image + np.float32(1)) / np.float32(2) * np.float32(255)) / np.float32(255)
    inputs["hint_image"] = torch.from_numpy(image)
    count, channels, height, width = shapes["hint_mask"]
    y, x = np.mgrid[:height, :width].astype(np.float64)
    masks = []
    for i in range(count):
        cy, cx = height * (0.35 + 0.1 * i), width * (0.65 - 0.1 * i)
        ry, rx = height * (0.15 + 0.05 * i), width * (0.10 + 0.05 * i)
        masks.append(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1)
    inputs["hint_mask"] = torch.from_numpy(np.stack(masks)).float()[:, None].repeat(1, channels, 1, 1)
    return inputs


def _load_small(manifest: dict[str, Any]) -> Goldens:
    results = load_file(FOLDER / "results.safetensors")
    skeleton = Goldens(manifest, {}, {}, [], {}, {}, {}).architecture()
    with torch.device("meta"):
        unet, control = build_unet(skeleton.unet), DHIControlNet.build(skeleton)
    shapes = {
        f"model.diffusion_model.{k}": v.shape for k, v in to_ldm("unet", unet.state_dict(), skeleton).items()
    }
    shapes |= {
        f"control_model.{k}": v.shape for k, v in to_ldm("control", control.state_dict(), skeleton).items()
    }
    weights = {name: _formula_weight(name, tuple(shape)) for name, shape in shapes.items()}
    head = weights["control_model.zero_convs.3.0.weight"].flatten()[:8]
    if not torch.equal(head, results["check.weight_head"]):
        raise ValueError("the weight formula does not reproduce the recording's check values")
    timesteps = torch.tensor(manifest["t"])
    cases = []
    for key, entry in manifest["train"].items():
        k, total = map(int, key.split("/"))
        own = _under(results, entry["prefix"] + ".")
        cases.append(
            TrainingCase(
                k,
                total,
                timesteps,
                entry["loss"],
                entry["aug_active"],
                _under(own, "per_sample."),
                gradient_norms=own["grad_norm"],
                gradient_projections=own["grad_proj"],
            )
        )
    names = sorted({key.split(".")[0] for key in results if key.startswith("S")})
    return Goldens(
        manifest,
        weights,
        _formula_inputs(manifest["shapes"], manifest["t"]),
        cases + _gate_cases(manifest),
        {name: _under(results, name + ".") for name in names},
        {key: value for key, value in results.items() if key.split(".")[0] in ("dhi", "control", "unet")},
        {},
    )


def _load_rich(manifest: dict[str, Any]) -> Goldens:
    cases = []
    inputs = load_file(FOLDER / "inputs.safetensors")
    for key, entry in manifest["train"].items():
        k, total = map(int, key.split("/"))
        recorded = load_file(FOLDER / entry["file"])
        cases.append(
            TrainingCase(
                k,
                total,
                inputs["t"],
                entry["loss"],
                entry["aug_active"],
                _under(recorded, "loss_per_sample."),
                {name: value for name, value in recorded.items() if name.startswith("eps_")},
                _under(recorded, "grad."),
                recorded["grad_norm"],
                recorded["grad_proj"],
            )
        )
    sampling = load_file(FOLDER / "sampling.safetensors")
    return Goldens(
        manifest,
        {name: value.float() for name, value in load_file(FOLDER / "weights.safetensors").items()},
        inputs,
        cases + _gate_cases(manifest),
        {name: _under(sampling, name + ".") for name in manifest["sampling"]},
        load_file(FOLDER / "modules.safetensors"),
        load_file(FOLDER / "schedule.safetensors"),
    )


def _gate_cases(manifest: dict[str, Any]) -> list[TrainingCase]:
    return [
        TrainingCase(
            gate["k"],
            gate["N"],
            torch.tensor(gate["t"]),
            gate["loss"],
            gate["aug_active"],
            {name: torch.tensor(values) for name, values in gate.get("per_sample", {}).items()},
        )
        for gate in manifest["gates"]
    ]


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
