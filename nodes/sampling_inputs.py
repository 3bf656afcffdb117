"""Inputs shared by several nodes: networks, sampling, reading of mask files, backgrounds."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from ..siamese_core.method.background_blending import DEFAULT_BLEND, MOST_BLEND
from .host.folders import ROOTS_VARIABLE


def network_inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="From Load Siamese Checkpoint or Apply Siamese Adapter."),
        io.ControlNet.Input("control_net", tooltip="The ControlNet of the same training run."),
        io.Conditioning.Input("positive", tooltip="What the images show."),
        io.Conditioning.Input("negative", tooltip="What they do not show; mostly an empty prompt."),
        io.Vae.Input("vae", tooltip="Decodes the latents."),
    ]


def sampling_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "steps",
            default=50,
            min=1,
            max=999,
            tooltip="Sampling steps; the paper's 50 of ddim, 15 of dpmpp_2m with karras.",
        ),
        io.Float.Input(
            "cfg",
            default=0.0,
            min=0.0,
            max=30.0,
            step=0.1,
            tooltip="Guidance scale; 0 is the model's own: what its file records, else the paper's 9 for "
            "Stable Diffusion 1.5 and 3 for small models.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=list(comfy.samplers.KSampler.SAMPLERS),
            default="ddim",
            tooltip="The paper's ddim. On the bundled model 15 steps of dpmpp_2m with karras differ from the "
            "exact images by 1.1 of 255 (50 of ddim by 0.3), in a third of the time. Ancestral and SDE "
            "samplers draw noise for a batch as a whole, so that their samples do depend on the batch.",
        ),
        io.Combo.Input(
            "scheduler",
            options=list(comfy.samplers.KSampler.SCHEDULERS),
            default="ddim_uniform",
            tooltip="The paper's ddim_uniform; karras for dpmpp_2m.",
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.01,
            tooltip="Weight of the mask's control; the paper's 1.",
        ),
    ]


def foreground_inputs(optional: bool = False) -> list[io.Input]:
    return [
        io.Int.Input(
            "threshold",
            optional=optional,
            default=127,
            min=0,
            max=254,
            tooltip="A pixel of a mask file is foreground above this value (0..255).",
        ),
        io.Int.Input(
            "label",
            optional=optional,
            default=0,
            min=0,
            max=65535,
            tooltip="The class of a label map that counts as foreground; 0 goes by the threshold.",
        ),
    ]


def background_inputs() -> list[io.Input]:
    return [
        io.Image.Input(
            "background",
            optional=True,
            tooltip="Real frames without a finding, one or a batch. Every image is generated into one of "
            "them, drawn by the seed, and is that frame outside of its mask and the blend.",
        ),
        io.String.Input(
            "background_folder",
            optional=True,
            default="",
            tooltip="A folder of such frames below ComfyUI's input folder, in place of background. Elsewhere "
            f"only below the folders in the variable {ROOTS_VARIABLE}.",
        ),
        io.Int.Input(
            "blend",
            optional=True,
            default=DEFAULT_BLEND,
            min=0,
            max=MOST_BLEND,
            tooltip="Pixels around the mask over which the generated image passes into the frame.",
        ),
    ]
