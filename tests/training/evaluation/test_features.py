"""Extractors load through the paths a user takes; random weights stand for those that cannot be had here."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.models import alexnet
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from siamese_core.pairs.pair_files import PairError
from training.command_line.options import OptionError
from training.evaluation.metrics.features import (
    Extractor,
    WeightPlaces,
    clip,
    efficientnet_lite0,
    extract,
    inception_v3,
    load_extractors,
    pixels,
    torchscript,
)
from training.evaluation.metrics.image_sets import find_images
from training.evaluation.metrics.paired import load_lpips, lpips_distances
from training.pretrained.weight_files import WeightsError


@pytest.fixture(autouse=True)
def no_cached_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever this machine has downloaded: the tests see empty caches and no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def save_image(path: Path, seed: int, size: tuple[int, int] = (40, 40), mode: str = "RGB") -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    Image.fromarray(noise).resize(size).convert(mode).save(path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Images of several sizes and kinds."""
    return [
        save_image(tmp_path / "a.png", 0),
        save_image(tmp_path / "wide.png", 1, (64, 32)),
        save_image(tmp_path / "grey.png", 2, mode="L"),
        save_image(tmp_path / "palette.png", 3, mode="P"),
        save_image(tmp_path / "clear.png", 4, mode="RGBA"),
        save_image(tmp_path / "photo.jpg", 5, (48, 48)),
    ]


@functools.cache
def lite() -> Extractor:
    return efficientnet_lite0()


class Means(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


def scripted(path: Path, network: nn.Module) -> Path:
    torch.jit.script(network).save(str(path))
    return path


def test_the_offline_extractor_gives_1280_features_of_any_image(files: list[Path]) -> None:
    features = extract(lite(), files, batch_size=4)
    assert features.shape == (len(files), 1280)
    assert features.dtype == np.float32
    assert features.std(axis=0).max() > 0


def test_the_offline_extractor_sees_the_image_as_its_authors_scaled_it(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a.png", 0, (224, 224))
    with Image.open(path) as image:
        pixel = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        maps = lite().network.network.extract_features((pixel / 255 - 0.498) / 0.502)  # type: ignore[union-attr, operator]
    np.testing.assert_allclose(extract(lite(), [path])[0], maps.mean(dim=(2, 3))[0], rtol=1e-4, atol=1e-5)


def test_features_do_not_depend_on_the_batch(files: list[Path]) -> None:
    alone = np.concatenate([extract(lite(), [path]) for path in files])
    np.testing.assert_allclose(extract(lite(), files, batch_size=3), alone, rtol=1e-3, atol=1e-4)


def test_pixel_distances_are_root_mean_squares(tmp_path: Path) -> None:
    for name, grey in (("black", 0), ("dark", 51), ("white", 255)):
        Image.new("L", (40, 50), grey).save(tmp_path / f"{name}.png")
    features = extract(pixels(), [tmp_path / f"{name}.png" for name in ("black", "dark", "white")])
    assert np.linalg.norm(features[0] - features[1]) == pytest.approx(0.2, abs=1e-6)
    assert np.linalg.norm(features[0] - features[2]) == pytest.approx(1, abs=1e-6)


def test_a_file_that_is_no_image_is_named(files: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(files[0].read_bytes()[:60])
    with pytest.raises(PairError, match=r"broken\.png"):
        extract(pixels(), [files[0], broken, files[1]])


def test_inception_loads_torch_fidelitys_file_and_resizes_by_itself(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "inception.pth"
    url = "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url"
    with monkeypatch.context() as context:
        context.setattr(url, lambda *_, **__: None)
        context.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        random = FeatureExtractorInceptionV3("random", ["2048"])
    torch.save(random.state_dict(), path)
    extractor = inception_v3(path)
    assert extractor.name == "inception-v3"
    features = extract(extractor, files[:3])
    with Image.open(files[1]) as image, torch.inference_mode():
        expected = random(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])[0]
    assert features.shape == (3, 2048)
    np.testing.assert_allclose(features[1], expected[0], rtol=1e-4, atol=1e-5)
    # The automatic choice takes it where it is there.
    assert load_extractors(None, WeightPlaces(inception=path), 64)[0].name == "inception-v3"


def test_clip_loads_a_folder_in_hugging_faces_layout(files: list[Path], tmp_path: Path) -> None:
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        image_size=32, patch_size=8, projection_dim=16,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "tiny")
    extractor = clip(tmp_path / "tiny")
    assert (extractor.name, extractor.side) == ("clip-tiny", 32)
    assert extract(extractor, files).shape == (len(files), 16)
    chosen = load_extractors(None, WeightPlaces(clip=tmp_path / "tiny"), 64)
    assert [one.name for one in chosen] == ["efficientnet-lite0", "clip-tiny"]


def test_a_torchscript_file_is_an_extractor_and_gets_rgb_from_0_to_1(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (255, 51, 0)).save(tmp_path / "a.png")
    (extractor,) = load_extractors(str(scripted(tmp_path / "means.pt", Means())), WeightPlaces(), 16)
    assert (extractor.name, extractor.side) == ("means", 16)
    np.testing.assert_allclose(extract(extractor, [tmp_path / "a.png"]), [[1, 0.2, 0]], atol=1e-6)


class Maps(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


class Endless(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3)) / 0


@pytest.mark.parametrize(
    ("network", "message"),
    [(Maps(), r"gives \(1, 3, 16, 16\) for 1 images"), (Endless(), "gives features that are not finite")],
    ids=["maps", "infinite"],
)
def test_an_extractor_with_unfit_output_is_refused(
    network: nn.Module, message: str, files: list[Path], tmp_path: Path
) -> None:
    extractor = torchscript(scripted(tmp_path / "odd.pt", network), 16)
    with pytest.raises(WeightsError, match=f"odd: {message}"):
        extract(extractor, files[:1])


@pytest.mark.parametrize("names", ["inception", "clip"])
def test_missing_weights_are_named_with_the_place_to_put_them(names: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as error:
        load_extractors(names, WeightPlaces(), 64)
    if names == "inception":
        assert str(tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth") in str(
            error.value
        )
        assert "--inception-weights" in str(error.value)
    else:
        assert "openai/clip-vit-large-patch14-336" in str(error.value) and "--clip" in str(error.value)


@pytest.mark.parametrize("names", ["", ",", " , "])
def test_a_list_of_no_extractors_is_refused(names: str) -> None:
    with pytest.raises(OptionError, match=r"names no extractor; give efficientnet-lite0, inception, clip or"):
        load_extractors(names, WeightPlaces(), 64)


@pytest.mark.parametrize("names", ["v1/encoder.pt,v2/encoder.pt", "pixels.pt"])
def test_two_extractors_of_one_name_are_refused(names: str) -> None:
    with pytest.raises(OptionError, match="would be the name of two"):
        load_extractors(names, WeightPlaces(), 64)


def test_without_weights_the_offline_extractor_serves_alone() -> None:
    assert [one.name for one in load_extractors(None, WeightPlaces(), 64)] == ["efficientnet-lite0"]


def test_a_failed_download_names_the_file_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(WeightsError, match=r"no route to host.*weights-inception-2015-12-05-6726825d\.pth"):
        load_extractors("inception", WeightPlaces(download=True), 64)


@pytest.mark.parametrize("kind", ["inception", "alexnet"])
@pytest.mark.parametrize("content", ["missing", "text", "other weights", "code"])
def test_unfit_weight_files_are_refused_and_never_run(kind: str, content: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"

    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(trace),)

    if content == "text":
        path.write_text("no weights", "utf-8")
    elif content != "missing":
        torch.save({"features.0.weight": torch.zeros(3)} if content == "other weights" else Code(), path)
    with pytest.raises(WeightsError, match=r"weights\.pth"):
        if kind == "inception":
            inception_v3(path)
        else:
            load_lpips(path, download=False)
    assert not trace.exists()


@pytest.mark.parametrize("content", ["missing", "text"])
def test_an_unfit_torchscript_file_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "extractor.pt"
    if content == "text":
        path.write_text("no program", "utf-8")
    with pytest.raises(WeightsError, match=r"extractor\.pt"):
        load_extractors(str(path), WeightPlaces(), 64)


def test_a_folder_without_a_clip_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"must hold config\.json"):
        load_extractors(None, WeightPlaces(clip=tmp_path), 64)


def test_lpips_is_0_for_equal_images_and_symmetric(files: list[Path], tmp_path: Path) -> None:
    torch.save(alexnet(weights=None).state_dict(), tmp_path / "alexnet.pth")
    network = load_lpips(tmp_path / "alexnet.pth", download=False)
    pairs = [(files[0], files[0]), (files[0], files[1]), (files[1], files[0]), (files[2], files[3])]
    values = lpips_distances(network, pairs, side=64, batch_size=3)
    assert values[0] == 0
    assert values[1] == pytest.approx(values[2], rel=1e-4)
    assert values.shape == (4,) and (values[1:] > 0).all()


def test_lpips_runs_on_the_weights_of_the_file(files: list[Path], tmp_path: Path) -> None:
    values = []
    for name, scale in (("one", 1.0), ("other", 0.5)):
        torch.manual_seed(0)
        state = alexnet(weights=None).state_dict()
        state["features.0.weight"] *= scale
        torch.save(state, tmp_path / f"{name}.pth")
        network = load_lpips(tmp_path / f"{name}.pth", download=False)
        values.append(lpips_distances(network, [(files[0], files[1])], side=64)[0])
    assert values[0] != values[1]


def test_lpips_without_weights_names_the_file_to_fetch() -> None:
    with pytest.raises(WeightsError, match=r"alexnet-owt-7be5be79\.pth.*--alexnet-weights"):
        load_lpips(None, download=False)


DATA = os.environ.get("SIAMESE_DATA")


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="set SIAMESE_DATA to a folder with kvasir-seg and dsb2018-sample")
def test_the_offline_kid_separates_polyps_from_nuclei_and_not_from_polyps() -> None:
    from training.evaluation.metrics.distances import kid

    polyps, nuclei = (find_images(Path(str(DATA)) / name).images for name in ("kvasir-seg", "dsb2018-sample"))
    order = np.random.default_rng(0).permutation(len(polyps))[:320]
    half, other = (extract(lite(), [polyps[i] for i in part]) for part in (order[:160], order[160:]))
    assert kid(half, other, resamples=100, seed=0).value == pytest.approx(0, abs=0.01)
    assert kid(half, extract(lite(), nuclei[:160]), resamples=100, seed=0).value == pytest.approx(
        0.6, abs=0.05
    )
