"""What can be seen only from inside the host: run by its interpreter, as a process of its own.

    python inside.py COMFYUI PACK FUNCTION [FILE ...]

The last line printed is the function's result as JSON.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
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


def model_management(checkpoint: Path, adapter: Path) -> dict[str, Any]:
    """Whole and partial loading of a MODEL with an adapter on it, and what is left after unloading."""
    import comfy.model_management

    load_model = part("siamese_core.weights.model_file").load_model
    base = part("nodes.host.host_models").build_model(load_model(checkpoint))
    before = {key: value.clone() for key, value in base.model.state_dict().items()}
    file = load_model(adapter)
    patched = part("nodes.apply_adapter").apply_decoder(base, file, 1.0)
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
