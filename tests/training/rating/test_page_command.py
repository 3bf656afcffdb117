"""The rate command, run as a user runs it: a blinded page and its key, then scores of the raters' CSVs."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.many_pairs import SIDE
from siamese_core.masks.resizing import resize_image
from siamese_core.pairs.pair_files import read_image
from tests.support.folders import read_tree
from tests.support.rating import COUNT, key_of, make_page, texture


def shown(page: Path) -> dict[str, Any]:
    """What the page's script is given."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"))
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def png_of(item: Mapping[str, str]) -> bytes:
    head, _, data = item["image"].partition(",")
    assert head == "data:image/png;base64"
    return base64.b64decode(data)


def test_the_page_shows_every_source_equally_often_and_the_key_tells_them_apart(page: Path) -> None:
    key, data = key_of(page), shown(page)
    assert key["set"] == data["set"]
    assert key["sources"] == ["real", "siamese"]
    assert [item["id"] for item in data["items"]] == list(key["items"])
    sources = [item["source"] for item in key["items"].values()]
    assert (sources.count("real"), sources.count("siamese")) == (COUNT, COUNT)
    assert len({item["file"] for item in key["items"].values()}) == 2 * COUNT


def test_the_page_shows_the_images_that_the_key_names(page: Path) -> None:
    key = key_of(page)
    side = key["settings"]["resolution"]
    for item in shown(page)["items"]:
        with Image.open(io.BytesIO(png_of(item))) as image:
            expected = resize_image(read_image(Path(key["items"][item["id"]]["file"])), (side, side))
            assert np.array_equal(np.asarray(image), expected)


def test_nothing_on_the_page_tells_real_from_synthetic(page: Path, pairs: Path, synthetic: Path) -> None:
    text = page.read_text("utf-8")
    for word in (pairs.name, synthetic.name, "secret", "siamese", "painted", "source", ".jpg"):
        assert word not in text.lower(), word
    for item in shown(page)["items"]:
        assert set(item) == {"id", "image"}
        with Image.open(io.BytesIO(png_of(item))) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (SIDE, SIDE))
            assert not image.info
        assert png_of(item).count(b"IDAT") >= 1
        assert not re.search(rb"tEXt|iTXt|zTXt|eXIf|tIME|pHYs", png_of(item))


def test_the_page_loads_nothing(page: Path) -> None:
    text = re.sub(r'"data:image/png;base64,[^"]*"', "", page.read_text("utf-8"))
    assert "default-src 'none'" in text
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttp|WebSocket|\ssrc=|<link", text)


def test_the_same_command_writes_the_same_bytes_and_another_seed_others(
    page: Path, pairs: Path, synthetic: Path, tmp_path: Path
) -> None:
    for name in ("again", "other"):
        seed = 42 if name == "again" else 7
        make_page(pairs, f"siamese={synthetic}", tmp_path / name / "rating.html", "--seed", seed)
    assert read_tree(tmp_path / "again") == read_tree(page.parent)
    assert shown(tmp_path / "other" / "rating.html")["set"] != shown(page)["set"]


def test_the_order_cannot_be_worked_out_from_the_seed(pairs: Path, synthetic: Path, tmp_path: Path) -> None:
    """Sources swapped, all else equal: the places of the first source's images change."""
    places = []
    for number in range(6):
        folder = Path(shutil.copytree(synthetic, tmp_path / str(number)))
        Image.fromarray(texture(100 + number)).save(folder / "painted0.png")
        make_page(pairs, folder, tmp_path / f"{number}.html", "--count", 4)
        key = key_of(tmp_path / f"{number}.html")["items"]
        places.append(tuple(item["source"] for item in key.values()))
    assert len(set(places)) > 1


def test_several_synthetic_sources_are_told_apart_by_name(
    pairs: Path, synthetic: Path, tmp_path: Path
) -> None:
    other = tmp_path / "a=b" / "images"
    other.mkdir(parents=True)
    for number in range(COUNT):
        Image.fromarray(texture(50 + number)).save(other / f"{number}.png")
    output = tmp_path / "rating.html"
    outcome = make_page(pairs, synthetic, output, "--synthetic", f"mask only={other.parent}")
    assert outcome.status == 0, outcome.errors
    assert key_of(output)["sources"] == ["real", "synthetic", "mask only"]

    refusal = make_page(pairs, synthetic, tmp_path / "x.html", "--synthetic", other.parent).refusal
    assert "a source 'synthetic' is there already" in refusal
    refusal = make_page(pairs, f"real={synthetic}", tmp_path / "x.html").refusal
    assert "a source 'real' is there already" in refusal
    refusal = make_page(pairs, f"=SUM={synthetic}", tmp_path / "x.html").refusal
    assert "cannot name a source" in refusal


def test_without_a_resolution_no_image_is_enlarged(pairs: Path, synthetic: Path, tmp_path: Path) -> None:
    outcome = make_page(pairs, synthetic, tmp_path / "small.html", "--count", 4)
    assert "note" not in outcome.output
    assert key_of(tmp_path / "small.html")["settings"]["resolution"] == SIDE

    outcome = make_page(pairs, synthetic, tmp_path / "large.html", "--resolution", 200)
    assert "note: --resolution 200 enlarges images" in outcome.output
    for item in shown(tmp_path / "large.html")["items"]:
        with Image.open(io.BytesIO(png_of(item))) as image:
            assert image.size == (200, 200)


def test_an_earlier_page_and_its_key_are_replaced_only_when_asked(
    pairs: Path, synthetic: Path, tmp_path: Path
) -> None:
    output = tmp_path / "rating.html"
    make_page(pairs, synthetic, output)
    before = read_tree(tmp_path)
    assert f"{output}: exists" in make_page(pairs, synthetic, output, "--seed", 1).refusal
    output.unlink()
    assert "rating.html.key.json: exists" in make_page(pairs, synthetic, output, "--seed", 1).refusal
    assert read_tree(tmp_path) == {"rating.html.key.json": before["rating.html.key.json"]}

    assert make_page(pairs, synthetic, output, "--seed", 1, "--overwrite").status == 0
    assert read_tree(tmp_path)["rating.html.key.json"] != before["rating.html.key.json"]


def test_an_image_of_two_sources_is_refused(pairs: Path, tmp_path: Path) -> None:
    refusal = make_page(pairs, pairs, tmp_path / "x.html", "--count", 6).refusal
    assert "is the same image as" in refusal
    assert not (tmp_path / "x.html").exists()


def test_a_damaged_image_is_named(pairs: Path, synthetic: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(synthetic, tmp_path / "torn"))
    whole = (folder / "painted0.png").read_bytes()
    (folder / "painted0.png").write_bytes(whole[: len(whole) // 2])
    refusal = make_page(pairs, folder, tmp_path / "x.html", "--count", 4).refusal
    assert str(folder / "painted0.png") in refusal
    assert not list(tmp_path.glob("x.html*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--count", 5), "'synthetic' has 4 images, fewer than --count 5"),
        (("--count", 1), "--count must be at least 2, not 1"),
        (("--resolution", 4), "--resolution must lie in 8..2048, not 4"),
        (("--output", "page.txt"), "--output must be an .html file, not page.txt"),
        (("--real", "nowhere"), "'nowhere' does not exist"),
    ],
)
def test_a_page_that_cannot_be_made_says_why(
    flags: tuple[object, ...], message: str, pairs: Path, synthetic: Path, tmp_path: Path
) -> None:
    assert message in make_page(pairs, synthetic, tmp_path / "x.html", *flags).refusal
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_refused(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no images" in make_page(pairs, tmp_path / "empty", tmp_path / "x.html").refusal


# Scoring. Every rater finds the real images real and is in two minds about the others.
