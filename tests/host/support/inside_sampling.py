"""Conditioning and control in the host's process; run as inside.py is, which see."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from inside import part, start
from torch import Tensor

SIDE = 64


class Nodes:
    """The bundled model with its ControlNet, prompts, two masks, and the host's own nodes."""

    def __init__(self) -> None:
        import nodes

        self.stock = nodes
        self.shipped = part("siamese_core.shipped")
        loaded = self.load(self.shipped.MODEL)
        self.model, self.clip, self.vae, self.control = loaded
        self.positive = self.encode("a fluorescence image of nuclei")
        self.other = self.encode("a violet stained tissue section with nuclei")
        self.negative = self.encode("")
        self.masks = torch.zeros(2, SIDE, SIDE)
        self.masks[0, 8:56, 4:28] = self.masks[1, 8:56, 36:60] = 1

    def load(self, path: Path) -> Any:
        loader = part("nodes.load_checkpoint").LoadSiameseCheckpoint
        return loader.execute(checkpoint=f"{path.name} (bundled)", heads=0).result

    def encode(self, text: str) -> Any:
        return self.stock.CLIPTextEncode().encode(self.clip, text)[0]

    def applied(self, control: Any, masks: Tensor) -> tuple[Any, Any]:
        hint = masks[..., None].expand(-1, -1, -1, 3).contiguous()
        node = self.stock.ControlNetApplyAdvanced()
        return tuple(node.apply_controlnet(self.positive, self.negative, control, hint, 1.0, 0.0, 1.0))

    def images(self, positive: Any, batch_size: int = 2, **changes: Any) -> Tensor:
        """Images of the two masks, (2, H, W, 3)."""
        given = {"model": self.model, "control_net": self.control, "negative": self.negative, "vae": self.vae}
        given |= {"mask": self.masks, "seed": 1, "steps": 2, "cfg": 3.0, "sampler_name": "euler"}
        given |= {"scheduler": "normal", "strength": 1.0, "positive": positive, "batch_size": batch_size}
        sampler = part("nodes.sampler").MaskDiffusionSampler
        result: Tensor = sampler.execute(**{**given, **changes}).result[0]
        return result

    def warnings(self, model: Any) -> list[str]:
        found: list[str] = part("nodes.sampler").network_warnings(model, self.control)
        return found


def told(work: Any) -> str:
    """The message with which ``work`` is refused, or "" if it is not."""
    try:
        work()
    except (ValueError, part("nodes.host.refusals").SiameseError) as error:
        return str(error)
    return ""


def values_of_single_samples() -> dict[str, float]:
    """By kind of conditioning: the largest difference that the batch size makes to an image in 0..1."""
    import comfy.controlnet

    nodes = Nodes()
    region = nodes.stock.ConditioningSetMask().append
    stock_control = comfy.controlnet.ControlNet.copy(nodes.control)
    behind, behind_negative = nodes.applied(stock_control, nodes.masks.flip(-1))
    kinds: dict[str, tuple[Any, Any]] = {
        "plain": (nodes.positive, nodes.negative),
        "regions": (
            region(nodes.positive, nodes.masks, "default", 1.0)[0]
            + region(nodes.other, 1 - nodes.masks, "default", 1.0)[0],
            nodes.negative,
        ),
        "embeddings": ([[torch.cat([nodes.positive[0][0], nodes.other[0][0]]), {}]], nodes.negative),
        "another ControlNet": (behind, behind_negative),
    }
    found = {}
    for name, (positive, negative) in kinds.items():
        both = nodes.images(positive, 2, negative=negative)
        each = nodes.images(positive, 1, negative=negative)
        found[name] = float((both - each).abs().max())
    return found


def refused_conditioning() -> dict[str, str]:
    """What is said to conditioning that the host would not apply as it is meant, by kind."""
    nodes = Nodes()
    area = nodes.stock.ConditioningSetAreaPercentage().append(nodes.positive, 0.5, 0.5, 0, 0, 1.0)[0]
    bounds = nodes.stock.ConditioningSetMask().append(nodes.positive, nodes.masks[:1], "mask bounds", 1.0)[0]
    three = nodes.masks[[0, 1, 0]]
    regions = nodes.stock.ConditioningSetMask().append(nodes.positive, three, "default", 1.0)[0]
    whole, negative = nodes.applied(nodes.control, nodes.masks[:1])
    limited = nodes.stock.ConditioningSetAreaPercentage().append(whole, 0.5, 0.5, 0, 0, 1.0)[0]
    common = part("nodes.sampling.conditioning").require_common
    complete = nodes.stock.ConditioningSetAreaPercentage().append(nodes.positive, 1.0, 1.0, 0, 0, 1.0)[0]
    flat = [[nodes.positive[0][0], {"mask": nodes.masks[0], "mask_strength": 1.0}]]
    frames = [[nodes.positive[0][0], {"concat_latent_image": torch.zeros(3, 4, 8, 8)}]]
    return {
        "the whole area": told(lambda: nodes.images(complete)),
        "a mask without a batch": told(lambda: nodes.images(flat)),
        "three frames": told(lambda: nodes.images(frames)),
        "an area in a dataset": told(lambda: common([area], SIDE, SIDE)),
        "an area": told(lambda: nodes.images(area)),
        "bounds": told(lambda: nodes.images(bounds)),
        "an area beside the whole": told(lambda: _stock_sampling(nodes, whole + limited, negative, 1)),
        "an area alone": told(lambda: _stock_sampling(nodes, limited, negative, 1)),
        "three regions": told(lambda: nodes.images(regions)),
        "regions in a dataset": told(lambda: common([regions, nodes.negative], SIDE, SIDE)),
        "one for all in a dataset": told(lambda: common([whole, negative], SIDE, SIDE)),
    }


def after_a_cancelled_sampling() -> dict[str, str]:
    """What is said to latents that do not fit the masks once a sampling of fitting ones was cancelled."""
    import comfy.model_management
    import latent_preview

    nodes = Nodes()
    positive, negative = nodes.applied(nodes.control, nodes.masks)
    original = latent_preview.prepare_callback

    def cancelling(*_: Any, **__: Any) -> Any:
        def callback(*_: Any) -> None:
            comfy.model_management.interrupt_current_processing(True)
            comfy.model_management.throw_exception_if_processing_interrupted()

        return callback

    def cancel() -> None:
        latent_preview.prepare_callback = cancelling
        try:
            _stock_sampling(nodes, positive, negative, 2)
        except comfy.model_management.InterruptProcessingException:
            return
        finally:
            latent_preview.prepare_callback = original
        raise AssertionError("was not cancelled")

    sizes = {"four latents": (4, SIDE), "one latent": (1, SIDE), "wide latents": (2, 2 * SIDE)}
    found = {}
    for name, (count, width) in sizes.items():
        cancel()
        found[name] = told(lambda: _stock_sampling(nodes, positive, negative, count, width))  # noqa: B023
    cancel()
    found["fitting latents"] = told(lambda: _stock_sampling(nodes, positive, negative, 2))
    return found


def other_nodes_samplings() -> dict[str, Any]:
    """What is said to a sampler that enlarges the latents on the way, and if a node's own hint stays."""
    from comfy_extras.nodes_advanced_samplers import SamplerLCMUpscale
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    nodes = Nodes()
    positive, negative = nodes.applied(nodes.control, nodes.masks[:1])
    chosen = SamplerLCMUpscale.execute(2.0, 2, "bislerp").result[0]
    sigmas = torch.tensor([10.0, 5.0, 1.0, 0.0])
    latent = {"samples": torch.zeros(1, 4, 8, 8)}

    def enlarging() -> None:
        SamplerCustom.execute(nodes.model, True, 1, 3.0, positive, negative, chosen, sigmas, latent)

    refusal = told(enlarging)
    control = positive[0][1]["control"]
    tile = torch.ones(1, 3, SIDE, SIDE)
    control.cond_hint = tile
    control.pre_run(nodes.model.model, lambda percent: percent)
    return {"enlarging": refusal, "own hint kept": control.cond_hint is tile}


def _stock_sampling(nodes: Nodes, positive: Any, negative: Any, count: int, width: int = SIDE) -> None:
    latent = {"samples": torch.zeros(count, 4, SIDE // 8, width // 8)}
    nodes.stock.common_ksampler(nodes.model, 1, 2, 3.0, "euler", "normal", positive, negative, latent)


def networks_that_do_not_belong_together() -> dict[str, Any]:
    """What is said to MODELs and ControlNets of different kinds or without what was trained."""
    from comfy_extras.nodes_model_downscale import PatchModelAddDownscale

    nodes = Nodes()
    base = nodes.load(nodes.shipped.BASE)[0]
    file = part("siamese_core.weights.model_file").load_model(nodes.shipped.MODEL)
    narrow = _control_of(file, widths=tuple(width // 2 for width in file.architecture.unet.widths))
    wide_text = _control_of(file, context_dim=768)
    positive, negative = nodes.applied(narrow, nodes.masks[:1])
    shrunk = PatchModelAddDownscale.execute(nodes.model, 3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic")
    return {
        "own": nodes.warnings(nodes.model),
        "base": nodes.warnings(base),
        "deep shrink": nodes.warnings(shrunk.result[0]),
        "other width": told(lambda: nodes.images(nodes.positive, control_net=narrow)),
        "other width, stock sampler": told(lambda: _stock_sampling(nodes, positive, negative, 1)),
        "other text encoder": told(lambda: nodes.images(nodes.positive, control_net=wide_text)),
    }


def _control_of(file: Any, **changes: Any) -> Any:
    """A ControlNet of zeros, for another UNet than that of ``file``."""
    unet = replace(file.architecture.unet, **changes)
    architecture = replace(file.architecture, unet=unet)
    entries = part("siamese_core.weights.key_names").entries("control", architecture)
    weights = {entry.ldm: torch.zeros(entry.ldm_shape) for entry in entries}
    make = part("siamese_core.weights.model_file").ModelFile
    return part("nodes.host.control").build_control(
        make("control", architecture, {}, "", {"control": weights})
    )


def values_that_are_not_finite() -> dict[str, str]:
    """What is said when a VAE overflows, and to images that hold such values."""
    nodes = Nodes()

    class Overflowing:
        def decode(self, latents: Tensor) -> Tensor:
            images: Tensor = nodes.vae.decode(latents)
            images[0, 0, 0, 0] = float("nan")
            return images

    arrays = part("nodes.host.mask_tensors").image_arrays
    return {
        "sampler": told(lambda: nodes.images(nodes.positive, vae=Overflowing())),
        "images": told(lambda: arrays(torch.full((1, 8, 8, 3), float("inf")))),
        "two channels": told(lambda: arrays(torch.zeros(1, 8, 8, 2))),
        "grey": str(arrays(torch.full((1, 8, 8, 1), 0.5))[0][0, 0].tolist()),
    }


if __name__ == "__main__":
    import json

    comfyui, pack, function = sys.argv[1:]
    sys.argv = sys.argv[:1]  # the host reads the command line when it is imported
    start(Path(comfyui), Path(pack))
    with torch.inference_mode():
        print(json.dumps(globals()[function]()))
