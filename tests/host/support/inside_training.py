"""Training in the host's process; run as inside.py is, which see."""

from __future__ import annotations

import json
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
    contexts = training.encode_prompts(clip, json.loads(prompts.read_text("utf-8")))
    moments = training.encode_images(vae, load_file(images)["images"].numpy())
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
