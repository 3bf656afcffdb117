"""Decoding latents where memory is short, and where a number format overflows."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from siamese_core.architecture import LATENT_SCALE
from siamese_core.diffusers_backend.image_decoding import NotFiniteError, decode_images
from siamese_core.method.ddim import to_uint8
from tests.support.small_models import small_base

LATENTS = torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(1))


class Loud(nn.Module):
    """A decoder whose values on the way are too large for float16."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(60_000.0))

    @property
    def dtype(self) -> torch.dtype:
        return self.gain.dtype

    def decode(self, latents: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=(latents[:, :3] * self.gain * 10) / (self.gain * 10))


def never() -> None:
    pytest.fail("the images are finite")


@torch.no_grad()
def test_images_are_what_the_decoder_gives_at_once() -> None:
    vae = small_base().vae
    assert (decode_images(vae, LATENTS, never) == to_uint8(vae.decode(LATENTS / LATENT_SCALE).sample)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_images_in_half_precision_are_near_those_in_float32(dtype: torch.dtype) -> None:
    vae = small_base().vae
    wanted = decode_images(vae, LATENTS, never).astype(int)
    found = decode_images(deepcopy(vae).to(dtype), LATENTS, never).astype(int)
    assert abs(found - wanted).mean() < 1.0


def test_images_are_decoded_in_halves_where_memory_does_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = small_base().vae
    wanted = decode_images(vae, LATENTS, never)
    sizes: list[int] = []
    decode = vae.decode

    def short_of_memory(latents: Tensor) -> object:
        sizes.append(len(latents))
        if len(latents) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return decode(latents)

    monkeypatch.setattr(vae, "decode", short_of_memory)
    assert abs(decode_images(vae, LATENTS, never).astype(int) - wanted).max() <= 1
    assert sizes == [3, 2, 1, 1, 1]


def test_a_single_image_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = small_base().vae

    def no_memory(latents: Tensor) -> object:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(vae, "decode", no_memory)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        decode_images(vae, LATENTS, never)


def test_images_that_overflow_are_decoded_in_float32_and_the_next_ones_as_before() -> None:
    vae, calls = Loud().half(), []
    images = decode_images(vae, LATENTS, lambda: calls.append("overflow"))
    assert (images == to_uint8(LATENTS[:, :3] / LATENT_SCALE)).mean() > 0.99
    assert calls == ["overflow"]
    assert vae.dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_latents_that_are_not_finite_give_no_image(dtype: torch.dtype) -> None:
    vae = deepcopy(small_base().vae).to(dtype)
    latents = LATENTS.clone()
    latents[1, 0, 0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match="no image was written"):
        decode_images(vae, latents, lambda: None)
