"""Conditioning, control and images that the host would take in another way than they are meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ..support.processes import inside
from ..support.server import Installation


@pytest.fixture
def result(installation: Installation, tmp_path: Path) -> Any:
    def of(function: str) -> Any:
        return inside(installation, function, script="inside_sampling.py", folder=tmp_path)

    return of


def test_values_of_single_samples_stay_with_them_whatever_the_batch_size(result: Any) -> None:
    differences = result("values_of_single_samples")
    assert {name for name, value in differences.items() if value > 1e-4} == set()


def test_conditioning_that_would_be_applied_in_another_way_is_refused(result: Any) -> None:
    told = result("refused_conditioning")
    for name in ("an area", "bounds", "an area beside the whole", "an area alone"):
        assert "limited to an area" in told[name], name
    assert "limited to an area" in told["an area in a dataset"]
    assert told["the whole area"] == told["a mask without a batch"] == ""
    assert "3 images to inpaint for 2 masks" in told["three frames"]
    assert "3 masks of a region for 2 masks; give one, or as many as masks" in told["three regions"]
    assert "a dataset's pairs need the same for all" in told["regions in a dataset"]
    assert told["one for all in a dataset"] == ""


def test_masks_are_checked_again_after_a_cancelled_sampling(result: Any) -> None:
    told = result("after_a_cancelled_sampling")
    assert "2 masks for 4 latents" in told["four latents"]
    assert "2 masks for 1 latents" in told["one latent"]
    assert "another aspect" in told["wide latents"]
    assert told["fitting latents"] == ""


def test_samplings_of_other_nodes_are_left_alone(result: Any) -> None:
    assert result("other_nodes_samplings") == {"enlarging": "", "own hint kept": True}


def test_networks_that_do_not_belong_together_are_told_or_refused(result: Any) -> None:
    told = result("networks_that_do_not_belong_together")
    assert told["own"] == []
    assert "may lack the decoder" in told["base"][0]
    assert "Kohya Deep Shrink" in told["deep shrink"][0]
    for name in ("other width", "other width, stock sampler"):
        assert "model_channels 32, the model 64" in told[name], name
    assert "context_dim 768, the model 32" in told["other text encoder"]


def test_images_that_are_not_finite_are_no_black_pairs(result: Any) -> None:
    told = result("values_that_are_not_finite")
    assert "--fp32-vae" in told["sampler"] and "--fp32-vae" in told["images"]
    assert "2 channels" in told["two channels"]
    assert told["grey"] == "[128, 128, 128]"
