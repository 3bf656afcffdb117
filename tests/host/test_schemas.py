"""The nodes' schemas, and values that no host has checked, in this host and in what an older one knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from .support.processes import inside
from .support.server import Installation

SEARCHED = {"medical", "segmentation", "polyp", "lesion", "synthetic dataset"}


def test_nodes_are_found_by_what_people_search_for(installation: Installation, tmp_path: Path) -> None:
    found = inside(installation, "schemas", folder=tmp_path)
    assert len(found) >= 8
    assert all(set(node["aliases"]) > SEARCHED for node in found.values())
    assert found["SiameseLoadCheckpoint"]["folded"] == ["heads"]
    assert found["SiameseGenerateDataset"]["folded"] == [
        "strength",
        "chunk_size",
        "threshold",
        "label",
        "invert",
    ]


def test_an_older_host_loads_all_nodes(installation: Installation, tmp_path: Path) -> None:
    found = inside(installation, "schemas_of_an_older_host", folder=tmp_path)
    assert found.keys() == inside(installation, "schemas", folder=tmp_path).keys()
    assert all(node == {"aliases": [], "folded": []} for node in found.values())


@pytest.mark.parametrize(
    ("widget", "message"),
    [
        ("if_exists", "'if_exists' is 'replace', which is none of its choices (number, skip, overwrite)"),
        ("resize_mode", "'resize_mode' is 'fit', which is none of its choices (stretch, crop, pad)"),
        ("label", "'label' is -1; give a number from 0 to 65535."),
        ("sampler_name", "'sampler_name' is 'no_such', which is none of its choices (euler, "),
        ("steps", "'steps' is 0; give a number from 1 to 999."),
        ("cfg", "'cfg' is nan; give a number from 0.0 to 30.0."),
    ],
)
def test_a_value_that_the_host_has_not_checked_is_refused(
    refusals: dict[str, str], widget: str, message: str
) -> None:
    assert refusals[widget].startswith(f"builtins.SiameseError: {message}")


@pytest.fixture(scope="module")
def refusals(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    told: dict[str, str] = inside(installation, "refusals", folder=tmp_path_factory.mktemp("refusals"))
    return told
