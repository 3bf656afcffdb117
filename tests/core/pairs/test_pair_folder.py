from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_core.pairs.pair_files import find_pairs
from siamese_core.pairs.pair_folder import add_pairs
from siamese_core.pairs.pair_writer import WriteError
from tests.support.datasets.others_files import new_pair


def values(root: Path) -> dict[str, int]:
    """The grey level of every image by its stem."""
    return {path.stem: int(np.asarray(Image.open(path)).max()) for path in (root / "images").iterdir()}


def listed(root: Path) -> list[str]:
    return [json.loads(line)["stem"] for line in (root / "manifest.jsonl").read_text("utf-8").splitlines()]


def test_pairs_of_new_names_join_the_others(tmp_path: Path) -> None:
    add_pairs(tmp_path, [new_pair("a", 1)])
    assert add_pairs(tmp_path, [new_pair("b", 2)]) == ["b"]

    assert values(tmp_path) == {"a": 1, "b": 2}
    assert listed(tmp_path) == ["a", "b"]
    assert [found.prompt for found in find_pairs(tmp_path)] == ["a prompt", "a prompt"]


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    add_pairs(tmp_path, [new_pair("a", 1)])
    assert add_pairs(tmp_path, [new_pair("a", 2)], "number") == ["a_2"]
    assert add_pairs(tmp_path, [new_pair("a", 3)], "number") == ["a_3"]
    assert values(tmp_path) == {"a": 1, "a_2": 2, "a_3": 3}


def test_a_taken_name_is_skipped(tmp_path: Path) -> None:
    add_pairs(tmp_path, [new_pair("a", 1)])
    assert add_pairs(tmp_path, [new_pair("a", 2), new_pair("b", 3)], "skip") == ["b"]
    assert values(tmp_path) == {"a": 1, "b": 3}
    assert listed(tmp_path) == ["a", "b"]


def test_a_taken_name_is_overwritten_and_listed_once(tmp_path: Path) -> None:
    add_pairs(tmp_path, [new_pair("a", 1), new_pair("b", 2)])
    assert add_pairs(tmp_path, [new_pair("a", 9)], "overwrite") == ["a"]
    assert values(tmp_path) == {"a": 9, "b": 2}
    assert sorted(listed(tmp_path)) == ["a", "b"]
    assert len(find_pairs(tmp_path)) == 2


@pytest.mark.parametrize("if_exists", ["number", "skip", "overwrite"])
def test_equal_names_in_one_call_lose_no_pair(tmp_path: Path, if_exists: str) -> None:
    written = add_pairs(tmp_path, [new_pair("a", 1), new_pair("A", 2), new_pair("a", 3)], if_exists)  # type: ignore[arg-type]
    assert len(set(written)) == 3
    assert sorted(values(tmp_path).values()) == [1, 2, 3]


def test_names_become_portable(tmp_path: Path) -> None:
    names = ["CON", "lpt1.left", "a:b?", "..", "with space ", "../up", "Ünïcode-名"]
    written = add_pairs(tmp_path, [new_pair(name) for name in names])
    assert written == ["CON_", "lpt1.left_", "a_b_", "_", "with space", ".._up", "Ünïcode-名"]


def test_the_graph_is_kept_in_the_image(tmp_path: Path) -> None:
    add_pairs(tmp_path, [new_pair("a")], text={"workflow": "{}"})
    assert Image.open(tmp_path / "images/a.png").info["workflow"] == "{}"
    assert "workflow" not in Image.open(tmp_path / "masks/a.png").info


def test_stopping_between_two_pairs_keeps_the_finished_ones(tmp_path: Path) -> None:
    calls = iter([None, KeyboardInterrupt()])

    def on_pair() -> None:
        if error := next(calls):
            raise error

    with pytest.raises(KeyboardInterrupt):
        add_pairs(tmp_path, [new_pair("a"), new_pair("b")], on_pair=on_pair)
    assert listed(tmp_path) == ["a"]
    assert len(find_pairs(tmp_path)) == 1


def test_stopping_while_overwriting_keeps_the_old_pairs_listed(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    add_pairs(tmp_path, [new_pair(name, 1) for name in names])
    calls = iter([None, None, KeyboardInterrupt()])

    def on_pair() -> None:
        if error := next(calls):
            raise error

    with pytest.raises(KeyboardInterrupt):
        add_pairs(tmp_path, [new_pair(name, 2) for name in names], "overwrite", on_pair=on_pair)
    assert values(tmp_path) == {"a": 2, "b": 2, "c": 1}
    assert [found.prompt for found in find_pairs(tmp_path)] == 3 * ["a prompt"]
    assert sorted(listed(tmp_path)) == ["a", "b", "c"]
    assert len(find_pairs(tmp_path)) == 3

    add_pairs(tmp_path, [new_pair(name, 3) for name in names], "overwrite")
    assert values(tmp_path) == {"a": 3, "b": 3, "c": 3}
    assert sorted(listed(tmp_path)) == ["a", "b", "c"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="is a file"):
        add_pairs(tmp_path / "file", [new_pair("a")])
