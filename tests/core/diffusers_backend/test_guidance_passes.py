"""The guidance passes share work and give what each gives alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

from siamese_core.diffusers_backend.guidance_passes import TextAttnProcessor, expand_passes
from siamese_core.diffusers_backend.networks import UNetEncoder

LATENT = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(1))
TIMESTEPS = torch.tensor([10, 500, 900])
TEXTS = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(2))


def encoder(**options: Any) -> UNetEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=2,
            cross_attention_dim=24,
            attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            **options,
        ).eval()
    for module in unet.modules():
        if isinstance(module, Attention):
            module.set_processor(TextAttnProcessor())
    return UNetEncoder(unet)


@pytest.mark.parametrize(
    "options",
    [{}, {"use_linear_projection": True}, {"transformer_layers_per_block": 2}],
    ids=["convolution", "linear projection", "two transformer layers"],
)
@pytest.mark.parametrize("rows", ["a text a pass", "a text a sample"])
@torch.no_grad()
def test_two_passes_equal_each_pass_alone(options: dict[str, Any], rows: str) -> None:
    network = encoder(**options)
    each = [network(LATENT, TIMESTEPS, text.expand(3, -1, -1)) for text in TEXTS]

    context = TEXTS if rows == "a text a pass" else TEXTS.repeat_interleave(3, 0)
    both = network(LATENT, TIMESTEPS, context, passes=2)

    for result, alone in zip(
        (*both.skips, both.middle, both.embedding),
        zip(*[(*one.skips, one.middle, one.embedding) for one in each], strict=True),
        strict=True,
    ):
        torch.testing.assert_close(result, torch.cat(alone), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_samples_of_one_pass_may_have_texts_of_their_own() -> None:
    network = encoder()
    texts = torch.randn(6, 7, 24, generator=torch.Generator().manual_seed(3))

    both = network(LATENT, TIMESTEPS, texts, passes=2)

    first, second = (network(LATENT, TIMESTEPS, part) for part in texts.chunk(2))
    torch.testing.assert_close(both.middle, torch.cat([first.middle, second.middle]), rtol=1e-4, atol=1e-5)


def test_a_single_pass_is_not_copied() -> None:
    assert expand_passes(LATENT, 1) is LATENT
    assert torch.equal(expand_passes(LATENT, 2), torch.cat([LATENT, LATENT]))
