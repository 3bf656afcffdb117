"""The counted memory of a training step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.training_memory import LiveBytes, step_bytes
from siamese_core.architecture import SD15
from siamese_core.learning import float32_steps

SMALL = replace(SD15, unet=replace(SD15.unet, widths=(32, 64), layers_per_block=1))


def test_what_lives_is_counted_once_and_what_was_there_before_not_at_all() -> None:
    before = torch.zeros(100)
    with LiveBytes() as live:
        view = before[:50]
        made = view + 1
        assert (live.now, live.most) == (200, 200)
        other = made.view(5, 10) * 2
        del made
        assert (live.now, live.most) == (200, 400)
    assert other.shape == (5, 10)


def test_bfloat16_weights_and_their_gradients_take_half_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float32_steps, "_BUCKET_BYTES", 1)  # the optimiser copies one weight at a time
    whole, half = (step_bytes(1, 64, True, SMALL, bfloat16_weights=chosen) for chosen in (False, True))
    assert whole["trained"] == half["trained"]
    assert half["weights"] == pytest.approx(whole["weights"] / 2, rel=0.02)
    saved = whole["step"] - half["step"]
    assert saved >= 1.5 * half["trained"]  # of a gradient's 4 bytes 2; the autocast's copies come and go
