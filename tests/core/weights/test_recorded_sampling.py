"""Size and guidance scale of a model: as recorded, else the paper's, or what small models want."""

from __future__ import annotations

from typing import Any

import pytest

from siamese_core.architecture import SD15, TINY, Architecture
from siamese_core.errors import CheckpointError
from siamese_core.weights.recorded_sampling import (
    OwnSampling,
    own_sampling,
    recorded_hint_weights,
    recorded_side,
)


@pytest.mark.parametrize(
    ("training", "architecture", "wanted"),
    [
        ({}, SD15, OwnSampling(384, 9.0, recorded=False)),
        ({"resize_mode": "crop"}, SD15, OwnSampling(384, 9.0, recorded=False, resize_mode="crop")),
        ({"resize_mode": ["crop"]}, SD15, OwnSampling(384, 9.0, recorded=False)),
        ({}, TINY, OwnSampling(384, 3.0, recorded=False)),
        ({"resolution": 128}, TINY, OwnSampling(128, 3.0, recorded=True)),
        ({"resolution": 512, "guidance": 7.5}, SD15, OwnSampling(512, 7.5, recorded=True)),
        ({"resolution": 128, "sample_guidance": 2}, TINY, OwnSampling(128, 2.0, recorded=True)),
        (
            {"resolution": 128, "sample_guidance": 9, "guidance": 3},
            TINY,
            OwnSampling(128, 3.0, recorded=True),
        ),
    ],
)
def test_the_record_decides_and_else_the_kind_of_model(
    training: dict[str, Any], architecture: Architecture, wanted: OwnSampling
) -> None:
    assert own_sampling(training, architecture) == wanted


@pytest.mark.parametrize("side", [0, -64, 100, 1 << 20, 128.0, "128", True, [128]])
def test_a_side_that_cannot_be_is_refused_or_as_good_as_none(side: Any) -> None:
    with pytest.raises(CheckpointError, match="no positive multiple of 64 up to 4096; give one yourself"):
        recorded_side({"resolution": side})
    assert own_sampling({"resolution": side}, SD15) == OwnSampling(384, 9.0, recorded=False)


def test_a_record_tells_the_side_or_nothing() -> None:
    assert recorded_side({"resolution": 128}) == 128
    assert recorded_side({"resolution": None}) is None
    assert recorded_side({}) is None


@pytest.mark.parametrize("guidance", [0, 0.5, 31, -1, float("nan"), float("inf"), "3", True, None])
def test_a_guidance_that_cannot_be_is_as_good_as_none(guidance: Any) -> None:
    assert own_sampling({"guidance": guidance}, SD15).guidance == 9.0


@pytest.mark.parametrize(
    ("training", "weights"),
    [
        ({}, (1.0, 0.0)),
        ({"branches": "siamese", "mask_weight": 0.5}, (1.0, 0.0)),
        ({"branches": "mask"}, (1.0, 0.0)),
        ({"branches": "image"}, (0.0, 1.0)),
        ({"branches": "joint"}, (1.0, 1.0)),
        ({"branches": "joint", "mask_weight": 0.5}, (0.5, 1.0)),
        *(
            ({"branches": "joint", "mask_weight": bad}, (1.0, 1.0))
            for bad in (-1, float("nan"), "2", None, True)
        ),
        *(({"branches": bad}, (1.0, 0.0)) for bad in (None, 3, ["joint"], {"joint": 1})),
    ],
)
def test_only_models_of_baselines_are_sampled_with_images(
    training: dict[str, Any], weights: tuple[float, float]
) -> None:
    assert recorded_hint_weights(training) == weights
    assert own_sampling(training, TINY).hint_weights == weights
