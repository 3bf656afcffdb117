"""Weights to start from, for one network or for several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from siamese_core.files import file_digest
from tests.support.commands import run_here
from tests.support.datasets.segmentation import SIDE, compare, read_results, write_sets
from training import segment
from training.segmentation.fitting import load_segmenter
from training.segmentation.networks.registry import NetworkError, build_network, weights_by_network


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sets(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of weights for each of two networks, of another seed than a run's."""
    folder = tmp_path_factory.mktemp("weights")
    found = {name: folder / f"{name}.safetensors" for name in ("small-unet", "unet")}
    for name, path in found.items():
        save_file(build_network(name, seed=977).state_dict(), path)
    return found


def test_a_file_names_its_network_and_one_alone_need_not(files: dict[str, Path]) -> None:
    unet, small = files["unet"], files["small-unet"]
    assert weights_by_network([str(unet)], ["unet"]) == {"unet": unet}
    assert weights_by_network([f"unet={unet}"], ["unet"]) == {"unet": unet}
    both = weights_by_network([f"small-unet={small}", f"unet={unet}"], ["unet", "small-unet", "sanet"])
    assert both == {"small-unet": small, "unet": unet}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["{unet}"], "does not say for which of unet, small-unet; give NETWORK=FILE"),
        (["sanet={unet}"], "'sanet' is not compared here; the networks are unet, small-unet"),
        (["unet={unet}", "unet={unet}"], "--weights names two files for unet"),
        (["unet=nowhere.pth"], "there is no file nowhere.pth"),
    ],
)
def test_a_file_whose_network_is_not_told_is_refused(
    entries: list[str], message: str, files: dict[str, Path]
) -> None:
    given = [entry.format(unet=files["unet"]) for entry in entries]
    with pytest.raises(NetworkError) as refusal:
        weights_by_network(given, ["unet", "small-unet"])
    assert message in str(refusal.value)


def test_networks_start_from_their_own_files_also_where_the_plan_wants_pretrained_ones(
    data: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    """With a rate of next to nothing what is kept is what was begun with; --pretrained would download."""
    flags = ("--network", *files, "--weights", *(f"{name}={path}" for name, path in files.items()))
    rate = ("--learning-rate", 1e-30, "--save-networks", "--seeds", 1, "--cases", 0)
    outcome = compare(data, tmp_path / "out", *flags, "--pretrained", *rate)
    assert outcome.status == 0, outcome.errors

    for name, path in files.items():
        kept = tmp_path / "out" / "runs" / "data" / name / "real" / "seed-42"
        record = json.loads(kept.with_suffix(".json").read_text("utf-8"))["record"]
        assert (record["weights"], record["pretrained"]) == (file_digest(path), False)
        own = dict(load_segmenter(kept.with_suffix(".safetensors")).network.named_parameters())
        begun = dict(build_network(name, seed=1, weights=path).named_parameters())
        assert all(torch.allclose(own[key], begun[key], atol=1e-6) for key in begun)


def test_a_single_file_is_shown_as_ever(data: Path, files: dict[str, Path], tmp_path: Path) -> None:
    flags = ("--network", "small-unet", "--weights", files["small-unet"], "--seeds", 1, "--cases", 0)
    assert compare(data, tmp_path / "out", *flags).status == 0
    assert read_results(tmp_path / "out")["settings"]["weights"] == str(files["small-unet"])


def test_a_file_that_does_not_fit_is_refused_before_the_first_network_is_trained(
    data: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    flags = ("--network", "small-unet", "unet", "--weights", f"unet={files['small-unet']}")
    refusal = compare(data, tmp_path / "out", *flags).refusal
    assert f"{files['small-unet']}: fits neither the whole network nor its backbone" in refusal
    assert not (tmp_path / "out").exists()


def test_a_settings_file_may_name_them(data: Path, files: dict[str, Path], tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    weights = json.dumps([f"small-unet={files['small-unet']}"])
    plan.write_text(
        f'networks = ["small-unet"]\nweights = {weights}\nsteps = 1\nbatch_size = 2\nresolution = {SIDE}\n'
        'seeds = 1\ncases = 0\n[test]\nnear = "near"\n[[variant]]\nname = "real"\nreal = ["real"]\n',
        "utf-8",
    )
    outcome = run_here(segment.main, "--config", plan, "--data", data, "--output", tmp_path / "out")
    assert outcome.status == 0, outcome.errors
    record = json.loads((tmp_path / "out/runs/data/small-unet/real/seed-42.json").read_text("utf-8"))[
        "record"
    ]
    assert record["weights"] == file_digest(files["small-unet"])
