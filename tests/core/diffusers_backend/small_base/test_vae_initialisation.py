"""The VAE's starting point: an autoencoder of block means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from siamese_core.architecture import VAEArchitecture
from siamese_core.diffusers_backend.base_model import build_vae
from siamese_core.diffusers_backend.small_base.vae_initialisation import start_from_block_means
from tests.support.phantoms.phantom import make_phantom


def phantoms(*seeds: int) -> Tensor:
    images = torch.stack([torch.from_numpy(make_phantom(seed, 64).image) for seed in seeds])
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


@pytest.mark.parametrize("widths", [(64, 64, 64, 64), (64, 128, 128, 192)])
@torch.no_grad()
def test_an_untrained_vae_already_shows_the_colours_of_regions(widths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    vae = build_vae(VAEArchitecture(widths=widths, layers_per_block=1), 64)
    start_from_block_means(vae)
    images = phantoms(1, 2, 3, 4)

    decoded = vae.decode(vae.encode(images).latent_dist.mode()).sample

    ours, theirs = avg_pool2d(decoded, 8).flatten(), avg_pool2d(images, 8).flatten()
    assert torch.corrcoef(torch.stack([ours, theirs]))[0, 1] > 0.9
    assert (decoded - images).square().mean() < images.var() * 0.4


def test_a_vae_with_one_channel_per_normalisation_group_is_refused() -> None:
    vae = build_vae(VAEArchitecture(widths=(32, 64, 64, 64), layers_per_block=1), 64)

    with pytest.raises(ValueError, match="at least 64, not 32"):
        start_from_block_means(vae)
