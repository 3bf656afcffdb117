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
        io.Conditioning.Input("positive", tooltip="What the images should show."),
        io.Conditioning.Input(
            "negative", tooltip="What the images should not show; usually an empty prompt."
        ),
        io.Vae.Input("vae", tooltip="Decodes the latents."),
    ]


def sampling_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "steps",
            default=50,
            min=1,
            max=999,
            tooltip="Sampling steps: 50 for ddim (as in the paper), 15 for dpmpp_2m and 25 for dpmpp_2m_sde "
            "with karras.",
        ),
        io.Float.Input(
            "cfg",
            default=0.0,
            min=0.0,
            max=30.0,
            step=0.1,
            tooltip="Guidance scale. 0: the value recorded in the model file, otherwise 9 for Stable "
            "Diffusion 1.5 (as in the paper) and 3 for small models.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=list(comfy.samplers.KSampler.SAMPLERS),
            default="ddim",
            tooltip="The paper uses ddim. With the bundled model, 15 steps of dpmpp_2m with karras take a "
            "third of the time and differ from the exact images by 1.1 of 255 (50 steps of ddim: 0.3). "
            "dpmpp_2m_sde (25 steps with karras) adds noise at each step and can follow masks more closely.",
        ),
        io.Combo.Input(
            "scheduler",
            options=list(comfy.samplers.KSampler.SCHEDULERS),
            default="ddim_uniform",
            tooltip="ddim_uniform for ddim (as in the paper), karras for dpmpp_2m and dpmpp_2m_sde.",
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.01,
            tooltip="Strength of the mask's control; the paper uses 1.",
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
            tooltip="Pixels of a mask file above this value (0..255) are foreground.",
        ),
        io.Int.Input(
            "label",
            optional=optional,
            default=0,
            min=0,
            max=65535,
            tooltip="The class of a label map that counts as foreground; 0 uses the threshold.",
        ),
    ]


def background_inputs() -> list[io.Input]:
    return [
        io.Image.Input(
            "background",
            optional=True,
            tooltip="Real frames without a finding, one or a batch. Each image is generated into one of "
            "them, chosen by the seed; outside the mask and the blend it equals that frame.",
        ),
        io.String.Input(
            "background_folder",
            optional=True,
            default="",
            tooltip="A folder of such frames inside ComfyUI's input folder, instead of background. Folders "
            f"elsewhere are allowed only inside those listed in the environment variable {ROOTS_VARIABLE}.",
        ),
        io.Int.Input(
            "blend",
            optional=True,
            default=DEFAULT_BLEND,
            min=0,
            max=MOST_BLEND,
            tooltip="Width in pixels of the rim around the mask where the generated image blends into the "
            "frame.",
        ),
    ]
