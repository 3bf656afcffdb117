"""The UNet's starting point: its input, passed on."""

from __future__ import annotations

import pytest
import torch

from siamese_core.architecture import UNetArchitecture
from siamese_core.diffusers_backend.base_model import build_unet
from siamese_core.diffusers_backend.small_base.unet_initialisation import start_from_identity


@pytest.mark.parametrize("widths", [(64, 64, 64, 64), (128, 128, 256, 256)])
@torch.no_grad()
def test_an_untrained_unet_predicts_that_all_is_noise(widths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    unet = build_unet(UNetArchitecture(widths=widths, num_heads=4, context_dim=32))
    start_from_identity(unet)
    latent = torch.randn(2, 4, 16, 16)

    prediction = unet(latent, torch.tensor([3, 990]), torch.randn(2, 5, 32)).sample

    if widths[0] == 64:  # a pair of carriers has its normalisation group to itself
        expected = latent / latent.square().mean(dim=(2, 3), keepdim=True).sqrt()
        torch.testing.assert_close(prediction, expected, rtol=1e-3, atol=1e-3)
    assert torch.corrcoef(torch.stack([prediction.flatten(), latent.flatten()]))[0, 1] > 0.95


def test_a_unet_with_one_channel_per_normalisation_group_is_refused() -> None:
    unet = build_unet(UNetArchitecture(widths=(32, 64, 64, 64), num_heads=4, context_dim=32))

    with pytest.raises(ValueError, match="at least 64, not 32"):
        start_from_identity(unet)
