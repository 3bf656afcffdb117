"""Training in the host's process; run as inside.py is, which see."""

from __future__ import annotations

import gc
import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from inside import part, start
from safetensors.torch import load_file, save_file
from torch import Tensor

_UNET, _CONTROL = "model.diffusion_model.", "control_model."


def recorded_steps(weights: Path, inputs: Path, architecture: Path, cases: Path, output: Path) -> Any:
    """Loss, terms and gradients of each of ``cases`` through the host's networks.

    Their gradients go to ``output`` as ``NUMBER/KEY`` under the keys of ``weights``. A case may ask for
    checkpointed blocks.
    """
    with torch.inference_mode():  # as nodes run
        given, recorded = load_file(weights), load_file(inputs)
        networks = _networks(given, architecture.read_text("utf-8"))
    inputs_now = {name: value.clone() for name, value in recorded.items()}
    results, gradients = [], {}
    for number, case in enumerate(json.loads(cases.read_text("utf-8"))):
        results.append(_step(networks, inputs_now, case))
        for key, weight in _trained(networks).items():
            if weight.grad is not None:
                gradients[f"{number}/{key}"] = weight.grad.contiguous()
    save_file(gradients, output)
    return results


def _step(networks: Any, inputs: dict[str, Tensor], case: dict[str, Any]) -> dict[str, Any]:
    objective = part("siamese_core.method.objective")
    for network in (networks, networks.control, networks.decoder):
        network.checkpointing = case["checkpointing"]
    for weight in _trained(networks).values():
        weight.grad = None
    batch = objective.TrainingBatch(
        latent=inputs["x_start"],
        noise=inputs["noise"],
        timesteps=torch.tensor(case["timesteps"]),
        context=inputs["context"],
        mask_hint=inputs["hint_mask"],
        image_hint=inputs["hint_image"],
    )
    settings = objective.ObjectiveSettings()
    terms = objective.siamese_step(
        networks, batch, settings, case["k"], case["total"], lambda loss: loss.backward()
    )
    names = ("mask", "image", "consistency", "augmentation")
    trained = {id(weight) for weight in networks.decoder.parameters()}
    frozen = [weight for weight in networks.unet.parameters() if id(weight) not in trained]
    return {
        "loss": float(terms.loss),
        **{name: getattr(terms, name).tolist() for name in names},
        "frozen_gradients": sum(weight.grad is not None for weight in frozen),
    }


def base(checkpoint: Path, prompts: Path, images: Path, output: Path) -> Any:
    """What a graph's MODEL, CLIP and VAE of ``checkpoint`` are as a base; encoded texts and images."""
    models, training = part("nodes.host.host_models"), part("nodes.training.host_base")
    with torch.inference_mode():
        file = part("siamese_core.weights.model_file").load_model(checkpoint)
        model, clip, vae = models.build_model(file), models.build_clip(file, None), models.build_vae(file)
    found = training.read_base(model, clip, vae)
    encoder = part("nodes.training.frozen_networks").HostEncoder(clip, vae)
    contexts = encoder.encode_prompts(json.loads(prompts.read_text("utf-8")))
    moments = encoder.encode_images(load_file(images)["images"])
    save_file({"contexts": contexts.contiguous(), "moments": moments.contiguous()}, output)

    patched: dict[str, Any] = {}
    for name in ("output_blocks.3.0.in_layers.2.weight", "input_blocks.1.0.in_layers.2.weight"):
        twin, key = model.clone(), f"diffusion_model.{name}"
        twin.add_patches({key: (torch.ones_like(found.unet[name]),)}, 0.5)
        try:
            again = training.read_base(twin, clip, vae)
            patched[name] = [float((again.unet[name] - found.unet[name]).mean()), again.digest]
        except training.TrainingBaseError as error:
            patched[name] = str(error)
    parts = {"unet": found.unet, "vae": found.vae, "text": found.text}
    return {
        "architecture": found.architecture.to_json(),
        "digest": found.digest,
        "equal": {name: _equal(weights, file.parts[name]) for name, weights in parts.items()},
        "patched": patched,
    }


def trainings(checkpoint: Path, pairs: Path, output: Path, settings: Path) -> Any:
    """Train in ``output`` as ``settings`` say, one after the other; losses, and what is left of each.

    Resident memory is read after each, and the graph's networks are compared with what they were.
    """
    import comfy.model_management

    models, base = part("nodes.host.host_models"), part("nodes.training.host_base")
    with torch.inference_mode():
        file = part("siamese_core.weights.model_file").load_model(checkpoint)
        model, clip, vae = models.build_model(file), models.build_clip(file, None), models.build_vae(file)
    graph = {"model": model.model, "clip": clip.cond_stage_model, "vae": vae.first_stage_model}
    before = {name: _copied(network) for name, network in graph.items()}
    found = part("siamese_core.pairs.pair_files").find_pairs(pairs)
    results = []
    for number, entry in enumerate(json.loads(settings.read_text("utf-8"))):
        finished = _train(base.read_base(model, clip, vae), clip, vae, found, output / str(number), entry)
        gc.collect()
        modules = [thing for thing in gc.get_objects() if isinstance(thing, torch.nn.Module)]
        held = comfy.model_management.current_loaded_models
        results.append(
            {
                "losses": finished.losses,
                "alive": sorted({type(module).__name__ for module in modules if _is_ours(module)}),
                "loaded": sorted(type(entry.model.model).__name__ for entry in held),
                "resident": _resident_bytes(),
            }
        )
        save_file(finished.adapter.parts["control"], output / str(number) / "control.safetensors")
        del finished, modules
    unchanged = {name: _unchanged(network, before[name]) for name, network in graph.items()}
    return {"trainings": results, "unchanged": unchanged}


def _train(base: Any, clip: Any, vae: Any, pairs: Any, folder: Path, entry: dict[str, Any]) -> Any:
    settings_of, training = part("siamese_core.learning.settings"), part("nodes.training.training_run")
    settings = training.TrainingSettings(
        steps=entry["steps"],
        resolution=entry["resolution"],
        seed=7,
        precision="no",
        rule=part("siamese_core.masks.foreground_rule").PLAIN_MASKS,
        prompt="",
        save_every=1000,
        preview_every=0,
        preview_cfg=3.0,
        own_guidance=3.0,
        batches=settings_of.BatchSettings(batch_size=2),
        optimiser=settings_of.OptimiserSettings(learning_rate=1e-5),
        execution=settings_of.ExecutionSettings(entry["micro_batches"], entry["checkpointing"]),
    )
    record = settings.record(pairs, base)
    place = part("nodes.training.run_folder").find_place(folder, record, "refuse")
    return training.train(base, clip, vae, pairs, settings, place, record)


def _is_ours(module: torch.nn.Module) -> bool:
    return type(module).__module__.endswith(("training.host_networks", "training.held_networks"))


def _copied(network: torch.nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def _unchanged(network: torch.nn.Module, before: dict[str, Tensor]) -> bool:
    after = network.state_dict()
    return after.keys() == before.keys() and all(
        torch.equal(_bytes(after[key]), _bytes(before[key])) for key in after
    )


def _bytes(value: Tensor) -> Tensor:
    """For a comparison to the bit: what a host leaves without a value may be no number."""
    return value.detach().reshape(-1).contiguous().view(torch.uint8)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * resource.getpagesize()


def _equal(found: dict[str, Tensor], stored: dict[str, Tensor]) -> bool:
    return found.keys() == stored.keys() and all(
        torch.equal(value.float(), stored[key].float()) for key, value in found.items()
    )


def _networks(weights: dict[str, Tensor], architecture_text: str) -> Any:
    host, models = part("nodes.training.host_networks"), part("nodes.host.host_models")
    architecture = part("siamese_core.architecture").Architecture.from_json(architecture_text)
    config = models.unet_config(architecture, weights, _UNET).unet_config
    unet, control = (
        {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        for prefix in (_UNET, _CONTROL)
    )
    with torch.inference_mode(False):
        return host.HostNetworks.assemble(
            host.build_unet(config, unet),
            host.build_control(config, architecture.hint_block, control),
            architecture.prediction,
        )


def _trained(networks: Any) -> dict[str, Tensor]:
    control = networks.control.network.named_parameters()
    return {
        **{_CONTROL + key: weight for key, weight in control},
        **{_UNET + key: weight for key, weight in networks.decoder.named_parameters()},
    }


if __name__ == "__main__":
    comfyui, pack, function, *files = sys.argv[1:]
    sys.argv = sys.argv[:1]  # the host reads the command line when it is imported
    start(Path(comfyui), Path(pack))
    print(json.dumps(globals()[function](*map(Path, files))))
