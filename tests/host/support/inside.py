"""What can be seen only from inside the host: run by its interpreter, as a process of its own.

    python inside.py COMFYUI PACK FUNCTION [FILE ...]

The last line printed is the function's result as JSON.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import sys
from dataclasses import make_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file

# No package of this name is installed: the host loads packs under a name made of their path, too.
NAME = "pack_under_test"


def start(comfyui: Path, pack: Path) -> None:
    """Make the host's modules and the pack's importable, on the CPU."""
    sys.path.insert(0, str(comfyui))
    from comfy.cli_args import args

    args.cpu = True
    spec = importlib.util.spec_from_file_location(
        NAME, pack / "__init__.py", submodule_search_locations=[str(pack)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    torch.set_num_threads(1)


def part(name: str) -> Any:
    """A module of the pack, as ``nodes.host.control``."""
    return importlib.import_module(f"{NAME}.{name}")


def control_outputs(model: Path, inputs: Path, output: Path) -> dict[str, int]:
    """The outputs of the file's ControlNet for ``inputs``: 00, 01, ... and the middle one last.

    A file that does not record its heads is taken for one of the recording, which has 4.
    """
    import comfy.model_management

    control = part("nodes.host.control").build_control(
        part("siamese_core.weights.model_file").load_model(model, num_heads=4)
    )
    comfy.model_management.load_models_gpu([control.control_model_wrapped])
    given = load_file(inputs)
    with torch.inference_mode():
        hint = given["hint"]
        arguments = {"hint": hint, "timesteps": given["timesteps"], "context": given["context"]}
        first = control.control_model(x=given["x"].clone(), **arguments)
        again = control.control_model(x=given["x"].clone(), **arguments)
    outputs = [*first["output"], *first["middle"]]
    save_file({f"{i:02d}": value.contiguous() for i, value in enumerate(outputs)}, output)
    same = all(map(torch.equal, outputs, [*again["output"], *again["middle"]]))
    block = control.control_model.input_hint_block
    kept = len(block._features)
    del arguments, hint, given
    return {"equal_again": int(same), "kept": kept, "kept_after": len(block._features)}


def control_on_one_device(model: Path, rules: Path) -> list[str]:
    """Devices of the ControlNet's outputs, made on the meta device under the mode in the file ``rules``."""
    import comfy.ldm.modules.attention as attention

    attention.optimized_attention = attention.attention_pytorch  # as on a GPU; a CPU's asks for free memory
    file = part("siamese_core.weights.model_file").load_model(model)
    network = part("nodes.host.control").build_control(file).control_model.to("meta")
    context = torch.zeros(2, 77, file.architecture.unet.context_dim, device="meta")
    x, hint = torch.zeros(2, 4, 16, 16, device="meta"), torch.zeros(2, 3, 128, 128, device="meta")
    timesteps = torch.zeros(2, device="meta")
    with torch.no_grad(), _one_device(rules):
        found = [network(x=x.clone(), hint=hint, timesteps=timesteps, context=context) for _ in range(2)]
    return [output.device.type for one in found for output in (*one["output"], *one["middle"])]


def training_on_one_device(model: Path, rules: Path) -> dict[str, list[str]]:
    """Devices of losses and gradients of a step of *Train Siamese*, on meta under the mode in ``rules``."""
    file = part("siamese_core.weights.model_file").load_model(model)
    config = dict(part("nodes.host.host_models").build_model(file).model.model_config.unet_config)
    training, objective = part("nodes.training.host_networks"), part("siamese_core.method.objective")
    unet = training.build_unet(config, file.parts["unet"])
    control = training.build_control(config, file.architecture.hint_block, file.parts["control"])
    networks = training.HostNetworks.assemble(unet, control, file.architecture.prediction)
    networks.unet.to("meta"), networks.control.to("meta")

    on_host = torch.tensor([3, 500])
    timesteps = on_host.to("meta")
    part("siamese_core.method.noise_schedule").signal_and_noise_scale(timesteps)  # is copied there once
    latent, hint = torch.zeros(2, 4, 16, 16, device="meta"), torch.zeros(2, 3, 128, 128, device="meta")
    context = torch.zeros(2, 77, file.architecture.unet.context_dim, device="meta")
    batch = objective.TrainingBatch(latent, latent, timesteps, context, hint, hint, on_host)
    with _one_device(rules):
        terms = objective.siamese_step(
            networks, batch, objective.ObjectiveSettings(), 2, 3, torch.Tensor.backward
        )
    gradients = [weight.grad for weight in networks.trained_parameters()]
    return {
        "losses": [value.device.type for value in terms.means().values()],
        "gradients": ["none" if gradient is None else gradient.device.type for gradient in gradients],
    }


def stochastic_samplers(_: Path) -> dict[str, float]:
    """By the name of each sampler that draws noise: how far a sample in a batch is from the same one alone.

    Samplers of a toy model; NaN for samples that are not finite.
    """
    import comfy.samplers

    names = [name for name in comfy.samplers.KSampler.SAMPLERS if name != "dpm_adaptive"]
    largest = 2**64 - 1
    found = {}
    for name in names:
        together, draws = _toy_samples(name, [largest, 5, 2**63])
        if draws:
            alone, _ = _toy_samples(name, [5])
            found[name] = float((together[1] - alone[0]).abs().max() + 0 * together.sum())
    return found


def _toy_samples(name: str, seeds: list[int]) -> tuple[torch.Tensor, bool]:
    """Latents of a toy model whose data are normally distributed, and whether the sampler draws noise."""
    import comfy.model_sampling
    import comfy.samplers

    class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
        pass

    sampling = Sampling()
    patcher = SimpleNamespace(get_model_object=lambda _: sampling)

    class Model:
        inner_model = SimpleNamespace(
            inner_model=SimpleNamespace(model_sampling=sampling), model_patcher=patcher, cfg=1.0
        )
        model_patcher = patcher

        def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **options: Any) -> torch.Tensor:
            denoised = x * 0.25 / (0.25 + sigma.view(-1, 1, 1, 1) ** 2)
            parts = {"denoised": denoised, "uncond_denoised": 0.9 * denoised, "cond_denoised": denoised}
            for function in options.get("model_options", {}).get("sampler_post_cfg_function", []):
                denoised = function(parts)
            return denoised

    sigmas = comfy.samplers.KSampler(patcher, 12, torch.device("cpu"), name, "karras").sigmas
    noise = torch.cat([part("siamese_core.seeds").starting_noise(seed, 8, 8) for seed in seeds])
    sampler = part("nodes.sampling.step_noise").seeded_sampler(name, noise, sigmas, seeds)
    samples = sampler.sampler_function(
        Model(),
        noise * sigmas[0],
        sigmas,
        extra_args={"seed": seeds[0] >> 1},
        callback=lambda _: None,
        disable=True,
        **sampler.extra_options,
    )
    return samples, "noise_sampler" in sampler.extra_options


def _one_device(rules: Path) -> Any:
    """The mode of the file ``rules``, for the meta device."""
    spec = importlib.util.spec_from_file_location("rules", rules)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.OneDevice("meta")


def model_management(checkpoint: Path, adapter: Path) -> dict[str, Any]:
    """Whole and partial loading of a MODEL with an adapter on it, and what is left after unloading."""
    import comfy.model_management

    load_model = part("siamese_core.weights.model_file").load_model
    base = part("nodes.host.host_models").build_model(load_model(checkpoint))
    before = {key: value.clone() for key, value in base.model.state_dict().items()}
    file = load_model(adapter)
    patched = part("nodes.host.host_models").apply_decoder(base, file, 1.0)
    control = part("nodes.host.control").build_control(file)
    wrapped = control.control_model_wrapped
    management, device = comfy.model_management, patched.load_device
    results: dict[str, Any] = {}

    management.load_models_gpu([patched, wrapped])
    results["managed"] = [type(entry.real_model()).__name__ for entry in management.current_loaded_models]
    loaded = patched.model.state_dict()
    wanted = {f"diffusion_model.{key}": value for key, value in file.parts["unet"].items()}
    results["decoder_error"] = max(
        float((loaded[key].float() - value.float()).abs().max()) for key, value in wanted.items()
    )
    whole = _forward(patched, control)
    management.unload_all_models()

    for name, patcher in (("model", patched), ("control", wrapped)):
        patcher.load(device, lowvram_model_memory=patcher.model_size() // 3)
        results[f"{name}_in_part"] = bool(patcher.model.model_lowvram)
    results["part_error"] = float((_forward(patched, control) - whole).abs().max())
    for patcher in (patched, wrapped):
        patcher.detach()

    after = base.model.state_dict()
    results["restored"] = all(torch.equal(after[key], value) for key, value in before.items())
    results["changed_by_adapter"] = float((whole - _forward_base(base, control)).abs().max())
    return results


def schemas() -> dict[str, dict[str, list[str]]]:
    """Of every node the words it is found under, and the inputs that are folded away."""
    found = {}
    extension = asyncio.run(importlib.import_module(NAME).comfy_entrypoint())
    for node in asyncio.run(extension.get_node_list()):
        schema = node.define_schema()
        schema.finalize()
        schema.validate()
        found[schema.node_id] = {
            "aliases": list(getattr(schema, "search_aliases", ())),
            "folded": [entry.id for entry in schema.inputs if (entry.extra_dict or {}).get("advanced")],
        }
    return found


def schemas_of_an_older_host() -> dict[str, dict[str, list[str]]]:
    """The same where schemas have no aliases and inputs cannot be folded away, as in ComfyUI 0.3.64.

    Neither has it fsspec, which is there only where torch has brought it.
    """
    from comfy_api.latest import io

    newer, make = io.Schema, io.Input.__init__
    kept = [(name, field.type, field) for name, field in newer.__dataclass_fields__.items()]
    kept = [entry for entry in kept if entry[0] != "search_aliases"]
    methods = {"finalize": newer.finalize, "validate": newer.validate}
    io.Schema = make_dataclass("Schema", kept, namespace=methods)

    def without_advanced(self: Any, id: str, *args: Any, **more: Any) -> None:
        make(self, id, *args, **more)
        assert self.advanced is None, "an older host knows no such argument"
        del self.advanced

    io.Input.__init__ = without_advanced
    sys.modules["fsspec"] = None  # type: ignore[assignment]  # its import now fails
    return schemas()


def refusals() -> dict[str, str]:
    """What nodes say to values that no host has checked: older ones check no choices, none what is linked."""
    save, masks, sampler = (part(f"nodes.{name}") for name in ("save_pairs", "load_masks", "sampler"))
    white = torch.ones(1, 64, 64)
    pairs = {"images": white[..., None].expand(-1, -1, -1, 3), "masks": white, "folder": "refused"}
    reading = {"start": 0, "count": 0, "threshold": 127, "width": 64, "height": 64, "label": 0}
    reading |= {"folder": "(bundled examples)", "resize_mode": "stretch", "invert": False}
    networks = dict.fromkeys(("model", "control_net", "positive", "negative", "vae"))
    sampling = {"seed": 1, "steps": 4, "cfg": 3.0, "sampler_name": "ddim", "scheduler": "ddim_uniform"}
    sampling |= {**networks, "mask": white, "strength": 1.0, "batch_size": 1}
    calls: dict[str, tuple[Any, dict[str, Any]]] = {
        "if_exists": (save.SavePairs, {**pairs, "if_exists": "replace"}),
        "resize_mode": (masks.LoadMasks, {**reading, "resize_mode": "fit"}),
        "label": (masks.LoadMasks, {**reading, "label": -1}),
        "sampler_name": (sampler.MaskDiffusionSampler, {**sampling, "sampler_name": "no_such"}),
        "steps": (sampler.MaskDiffusionSampler, {**sampling, "steps": 0}),
        "cfg": (sampler.MaskDiffusionSampler, {**sampling, "cfg": float("nan")}),
    }
    return {name: _refusal(node, inputs) for name, (node, inputs) in calls.items()}


def _refusal(node: Any, inputs: dict[str, Any]) -> str:
    try:
        node.execute(**inputs)
    except Exception as error:
        return f"{type(error).__module__}.{type(error).__qualname__}: {error}"
    return "nothing"


def _forward(model: Any, control: Any) -> torch.Tensor:
    """One controlled noise prediction through the model as it is loaded."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 16, 16, generator=generator)
    width = model.model.model_config.unet_config["context_dim"]
    context = 0.1 * torch.randn(1, 77, width, generator=generator)
    hint = torch.zeros(1, 3, 128, 128)
    hint[:, :, 40:90, 40:90] = 1
    timesteps = torch.tensor([500.0])
    with torch.inference_mode():
        outputs = control.control_model(x=x.clone(), hint=hint, timesteps=timesteps, context=context)
        network = model.model.diffusion_model
        result: torch.Tensor = network(x, timesteps, context=context, control=outputs, transformer_options={})
    return result.clone()


def _forward_base(base: Any, control: Any) -> torch.Tensor:
    import comfy.model_management

    comfy.model_management.load_models_gpu([base, control.control_model_wrapped])
    return _forward(base, control)


if __name__ == "__main__":
    comfyui, pack, function, *files = sys.argv[1:]
    sys.argv = sys.argv[:1]  # the host reads the command line when it is imported
    start(Path(comfyui), Path(pack))
    print(json.dumps(globals()[function](*map(Path, files))))
