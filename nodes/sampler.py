"""Mask-Diffusion Sampler: generate one image per mask with the host's sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy_api.latest import io
from torch import Tensor

from ..siamese_core.architecture import LATENT_STRIDE
from ..siamese_core.dataset_generation.background_frames import frame_of_pair
from ..siamese_core.errors import UserError
from ..siamese_core.method.background_blending import DEFAULT_BLEND
from ..siamese_core.seeds import sample_seed, starting_noise
from .host.control import ControlError, check_shape, empty_mask_warnings, refuse_dummy
from .host.file_state import files_fingerprint, never_equal
from .host.host_models import RUN_ID
from .host.mask_tensors import NOT_FINITE, binary_masks
from .host.notices import show, warn
from .host.own_sampling import chosen_guidance, hints_in_words, own_sampling_of, size_warnings
from .host.refusals import refusing
from .host.schema import searchable
from .sampling.background import Background, chosen_frames, frames_at, without_noise_of_its_own
from .sampling.conditioning import of_samples, with_control
from .sampling.step_noise import seeded_sampler
from .sampling_inputs import background_inputs, network_inputs, sampling_inputs

StepCallback = Callable[[int, Tensor, Tensor, int], None]


class MaskDiffusionSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = io.Schema(
            node_id="SiameseMaskDiffusionSampler",
            display_name="Mask-Diffusion Sampler",
            category="Siamese-Diffusion",
            description="Generate one image per mask, at the mask's size. Sample i depends only on the seed "
            "and i, not on the batch it is computed in.",
            inputs=[
                *network_inputs(),
                io.Mask.Input("mask", tooltip="A batch of masks; white marks the lesion."),
                io.Int.Input(
                    "seed",
                    default=42,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the first sample; the others' seeds are derived from it.",
                ),
                *sampling_inputs(),
                io.Int.Input(
                    "batch_size",
                    default=4,
                    min=1,
                    max=256,
                    tooltip="Samples computed at once; more is faster and needs more memory. The images "
                    "are the same up to rounding, but for dpm_adaptive.",
                ),
                *background_inputs(),
            ],
            outputs=[
                io.Image.Output(tooltip="The synthetic images."),
                io.Mask.Output(tooltip="The masks used, strictly 0 or 1."),
                io.Latent.Output(tooltip="The images' latents."),
            ],
        )
        return searchable(schema, ("ksampler", "mask to image"), rare=("strength",))

    @classmethod
    def fingerprint_inputs(cls, background_folder: str | None = "", **_: object) -> str | float:
        if background_folder is None:  # it comes from another node; the host does not pass linked values here
            return never_equal()
        if not background_folder.strip():
            return ""
        try:
            frames = frames_at(background_folder)
            return files_fingerprint(path for pair in frames.items() for path in pair if path is not None)
        except (UserError, OSError) as error:
            return f"unreadable: {error}"

    @classmethod
    @refusing
    def execute(
        cls,
        model: Any,
        control_net: Any,
        positive: Any,
        negative: Any,
        vae: Any,
        mask: Tensor,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        strength: float,
        batch_size: int,
        background: Tensor | None = None,
        background_folder: str = "",
        blend: int = DEFAULT_BLEND,
    ) -> io.NodeOutput:
        masks = binary_masks(mask)
        check_size(masks, own_sampling_of(model).resolution)
        height, width = masks.shape[-2:]
        frames = chosen_frames(background, background_folder)
        warnings = [
            *network_warnings(model, control_net),
            *size_warnings(model, height, width),
            *empty_mask_warnings(masks),
            *(frames.notes if frames else ()),
        ]
        warn(warnings)
        guidance = chosen_guidance(model, cfg)
        sampling = Sampling(
            model, control_net, positive, negative, vae, steps, guidance, sampler_name, scheduler, strength
        )
        starts = range(0, len(masks), batch_size)
        progress = _Progress(model, steps, len(starts))
        images, latents = [], []
        for start in starts:
            chunk = masks[start : start + batch_size]
            indices = range(start, start + len(chunk))
            behind = None
            if frames is not None:
                chosen = [frame_of_pair(frames, seed, index, (height, width)) for index in indices]
                behind = Background.of(chosen, chunk, blend)
            seeds = [sample_seed(seed, index) for index in indices]
            own_positive, own_negative = of_samples((positive, negative), indices, len(masks))
            own = replace(sampling, positive=own_positive, negative=own_negative)
            samples, pixels = own.sample(chunk, seeds, progress.next_chunk(), behind)
            latents.append(samples)
            images.append(pixels)
        show(f"{len(masks)} images, {width} x {height} pixels, cfg {guidance:g}", warnings)
        return io.NodeOutput(torch.cat(images), masks.float(), {"samples": torch.cat(latents)})


@dataclass(frozen=True)
class Sampling:
    """Everything that determines an image besides its mask and seed; fields are named like the inputs."""

    model: Any
    control_net: Any
    positive: Any
    negative: Any
    vae: Any
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    strength: float

    def sample(
        self,
        masks: Tensor,
        seeds: Sequence[int],
        callback: StepCallback,
        background: Background | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sample one batch for bool ``masks`` (B, H, W).

        Returns latents (B, 4, H/8, W/8) and an IMAGE (B, H, W, 3) in [0, 1]. Raises ControlError for
        conditioning that is limited to an area, and for images that are not finite.
        """
        hint = masks[:, None].expand(-1, 3, -1, -1).float()
        controlled = with_control(self.positive, self.negative, self.control_net, hint, self.strength)
        height, width = (side // LATENT_STRIDE for side in masks.shape[-2:])
        noise = torch.cat([starting_noise(seed, height, width) for seed in seeds])
        sampler_name, latents, noise_mask = self.sampler_name, torch.zeros_like(noise), None
        if background is not None:
            sampler_name = without_noise_of_its_own(sampler_name)
            kept = background.kept_latents(self.vae)
            # Outside the kept latents, sampling starts from pure noise, as without a background.
            latents, noise_mask = kept.restored_in(latents), kept.generated.float()
        sigmas = self.noise_levels(sampler_name)
        samples = comfy.sample.sample_custom(
            self.model,
            noise,
            self.cfg,
            seeded_sampler(sampler_name, noise, sigmas, seeds),
            sigmas,
            *controlled,
            latents,
            noise_mask=noise_mask,
            callback=callback,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seeds[0] >> 1,  # some samplers of the host add 1, and no sample depends on it
        )
        images = self.vae.decode(samples)
        if not (samples.isfinite().all() and images.isfinite().all()):
            raise ControlError(NOT_FINITE)
        return samples, images if background is None else background.around(images)

    def noise_levels(self, sampler_name: str) -> Tensor:
        """The noise levels from high to low that the host's KSampler takes with this sampler and scheduler.

        Raises ControlError if the scheduler cannot space so few steps.
        """
        steps = comfy.samplers.KSampler(
            self.model, self.steps, self.model.load_device, sampler_name, self.scheduler
        )
        sigmas: Tensor = steps.sigmas
        if not sigmas.isfinite().all():
            raise ControlError(
                f"scheduler '{self.scheduler}' has no noise levels for steps={self.steps}; use more steps or "
                "another scheduler"
            )
        return sigmas


class _Progress:
    """One progress bar over all batches, with latent previews; lets the user interrupt between steps."""

    def __init__(self, model: Any, steps: int, chunks: int) -> None:
        self._bar = comfy.utils.ProgressBar(steps * chunks)
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self._chunks, self._begun = chunks, 0

    def next_chunk(self) -> StepCallback:
        begun = self._begun
        self._begun += 1

        def callback(step: int, x0: Tensor, x: Tensor, total: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            preview = self._previewer.decode_latent_to_preview_image("JPEG", x0) if self._previewer else None
            self._bar.update_absolute(begun * total + step + 1, self._chunks * total, preview)

        return callback


def check_size(masks: Tensor, own: int) -> None:
    """Raise ControlError unless both sides of ``masks`` (B, H, W) are multiples of 64.

    ``own`` is the model's image side in pixels, for the message.
    """
    refuse_dummy(masks)
    height, width = masks.shape[-2:]
    if height % 64 or width % 64:
        raise ControlError(
            f"The masks are {width} x {height} pixels, and both sides must be multiples of 64; resize "
            f"them, best to the model's own {own} x {own}."
        )


def network_warnings(model: Any, control_net: Any) -> list[str]:
    """Warnings if decoder and ControlNet are not of one training run, or the control may be switched off.

    Raises ControlError when there is no ControlNet, for one that does not fit the model, and for a baseline
    that needs images as hints.
    """
    if control_net is None:
        raise ControlError(
            "There is no ControlNet: the checkpoint is a base, which does not follow masks. Train it with "
            "Train Siamese, or load a trained model."
        )
    own = own_sampling_of(model)
    if own.needs_image:
        raise ControlError(
            "This model is a baseline that was trained with images in its hint, and this node gives it masks "
            f"alone; give it {hints_in_words(own)}, through Apply ControlNet nodes as in the template "
            "mask_and_image_prior."
        )
    check_shape(getattr(control_net, "shape", {}), model.model.model_config.unet_config)
    decoder, control = model.get_attachment(RUN_ID), getattr(control_net, "run_id", "")
    warnings = []
    if decoder and control and decoder != control:
        warnings.append(
            f"MODEL and CONTROL_NET come from different training runs ({decoder[:8]} and {control[:8]}): "
            "take both from one file"
        )
    elif control and not decoder and control_net.has_decoder:
        warnings.append(
            "MODEL may lack the decoder that was trained with this CONTROL_NET: take MODEL from the same node"
        )
    patches = model.model_options["transformer_options"].get("patches", {})
    if any(patches.get(name) for name in ("input_block_patch", "input_block_patch_after_skip")):
        warnings.append(
            "MODEL is patched in its input blocks: a patch that changes their size, as Kohya Deep Shrink, "
            "switches the control off"
        )
    return warnings
