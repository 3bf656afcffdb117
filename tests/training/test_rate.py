"""The rate command, run as a user runs it: a blinded page and its key, then scores of the raters' CSVs."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SIDE, Outcome, read_tree, run_here
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from siamese_core.masks import resize_image
from siamese_core.pairs import read_image
from training import rate

COUNT = 3
Edit = Callable[[str], str]


def texture(seed: int, height: int = 96, width: int = 96) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain folder of images in several formats and sizes, some with metadata."""
    folder = tmp_path_factory.mktemp("secret-synthetic")
    told = PngInfo()
    told.add_text("workflow", "made by a model")
    Image.fromarray(texture(0)).save(folder / "painted0.png", pnginfo=told)
    Image.fromarray(texture(1, 80, 120)).save(folder / "painted1.jpg")
    Image.fromarray(texture(2)[..., 0]).save(folder / "painted2.tif")
    Image.fromarray(texture(3)).save(folder / "painted3.bmp")
    (folder / "notes.txt").write_text("no image")
    return folder


def make_page(real: Path, synthetic: object, output: Path, *more: object) -> Outcome:
    """Run the page command; later flags win."""
    usual = ("--real", real, "--synthetic", synthetic, "--output", output, "--count", COUNT)
    return run_here(rate.main, "page", *usual, *more)


def key_of(page: Path) -> dict[str, Any]:
    key: dict[str, Any] = json.loads(page.with_name(page.name + ".key.json").read_text("utf-8"))
    return key


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


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, pairs: Path, synthetic: Path) -> Path:
    path = tmp_path_factory.mktemp("page") / "new" / "rating.html"
    outcome = make_page(pairs, f"siamese={synthetic}", path)
    assert outcome.status == 0, outcome.errors
    return path


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
        (("--resolution", 4), "--resolution must be 8 to 2048, not 4"),
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


def write_csv(folder: Path, page: Path, rater: str, leniency: int = 0, edit: Edit = str) -> Path:
    """What the page saves for a rater; ``edit`` spoils it."""
    key = key_of(page)
    lines = ["set,rater,item,rating,seconds,order"]
    for order, (name, item) in enumerate(key["items"].items(), start=1):
        rating = (4 if item["source"] == "real" else 2) + (order + leniency) % 2
        lines.append(f"{key['set']},{rater},{name},{rating},{3 + order},{order}")
    path = folder / f"{rater.replace(' ', '-')}.csv"
    path.write_bytes(("\ufeff" + edit("\r\n".join(lines) + "\r\n")).encode("utf-8"))
    return path


def score(page: Path, output: Path, *csvs_and_flags: object) -> Outcome:
    key = page.with_name(page.name + ".key.json")
    return run_here(rate.main, "score", "--key", key, "--output", output, *csvs_and_flags)


@pytest.fixture
def sheets(tmp_path: Path, page: Path) -> list[Path]:
    return [write_csv(tmp_path, page, name, n) for n, name in enumerate(("Dr. Müller", "B", "rater_3"))]


def test_the_ratings_of_three_raters_are_scored(sheets: list[Path], page: Path, tmp_path: Path) -> None:
    outcome = score(page, tmp_path / "out", *sheets)
    assert outcome.status == 0, outcome.errors
    assert "note" not in outcome.output
    assert set(read_tree(tmp_path / "out")) == {"ratings.json", "ratings.md", "ratings.html"}
    result = json.loads((tmp_path / "out" / "ratings.json").read_text("utf-8"))
    real, siamese = result["sources"]
    assert (real["source"], real["items"]) == ("real", COUNT)
    assert real["taken_for_real"]["value"] == 1
    assert siamese["taken_for_real"]["value"] == 0
    assert real["mean_opinion_score"]["low"] < real["mean_opinion_score"]["value"] < 5
    (difference,) = result["differences"]
    assert (difference["first"], difference["second"]) == ("real", "siamese")
    assert difference["difference"]["value"] == pytest.approx(
        real["mean_opinion_score"]["value"] - siamese["mean_opinion_score"]["value"]
    )
    assert [rater["rater"] for rater in result["raters"]] == ["Dr. Müller", "B", "rater_3"]
    assert result["raters"][0]["median_seconds"] == 3 + 3.5
    assert 0 < result["krippendorff_alpha_ordinal"]["value"] < 1
    assert len(result["items"]) == 2 * COUNT
    assert result["items"][0]["ratings"].keys() == {"Dr. Müller", "B", "rater_3"}
    assert result["notes"] == []


def test_the_tables_say_the_same_as_the_record(sheets: list[Path], page: Path, tmp_path: Path) -> None:
    score(page, tmp_path / "out", *sheets)
    result = json.loads((tmp_path / "out" / "ratings.json").read_text("utf-8"))
    markdown, html = ((tmp_path / "out" / f"ratings.{kind}").read_text("utf-8") for kind in ("md", "html"))
    for source in result["sources"]:
        value = f"{source['mean_opinion_score']['value']:.2f}"
        assert f"| {source['source']} | {COUNT} | {value} (" in markdown
        assert f"<td>{source['source']}</td>" in html
    assert r"| rater\_3 |" in markdown
    assert "<td>rater_3</td>" in html
    assert "<svg" in html


def test_scores_are_the_same_again(sheets: list[Path], page: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        score(page, tmp_path / name, *sheets)
    assert read_tree(tmp_path / "one") == read_tree(tmp_path / "two")


def test_a_file_that_a_spreadsheet_saved_again_is_read(
    sheets: list[Path], page: Path, tmp_path: Path
) -> None:
    score(page, tmp_path / "before", *sheets)
    text = sheets[1].read_text("utf-8-sig").replace(",", ";")
    sheets[1].write_text(text.replace("\n", "\n;;;;;\n", 1), "utf-8")
    assert score(page, tmp_path / "after", *sheets).status == 0
    assert read_tree(tmp_path / "before") == read_tree(tmp_path / "after")


def test_one_rater_is_scored_with_a_note(sheets: list[Path], page: Path, tmp_path: Path) -> None:
    outcome = score(page, tmp_path / "out", sheets[0])
    assert outcome.status == 0, outcome.errors
    assert "note: Only 1 rater: ask at least 3." in outcome.output
    assert "Agreement is not defined" in outcome.output
    result = json.loads((tmp_path / "out" / "ratings.json").read_text("utf-8"))
    assert result["krippendorff_alpha_ordinal"] is None
    assert "> Only 1 rater" in (tmp_path / "out" / "ratings.md").read_text("utf-8")


def nth_line(number: int, pattern: str, replacement: str) -> Edit:
    """Replaces ``pattern`` in a line, counted from 1."""

    def edit(text: str) -> str:
        lines = text.splitlines()
        lines[number - 1] = re.sub(pattern, replacement, lines[number - 1])
        return "\n".join(lines)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (nth_line(4, r"set-\w+", "set-0"), ", line 4: is of the set 'set-0', but the key is of 'set-"),
        (nth_line(4, r"item-\w+", "item-99"), ", line 4: the page has no item 'item-99'"),
        (nth_line(5, r"item-\w+", "item-2"), ", line 5: 'item-2' was already rated in line 3"),
        (nth_line(2, r",\d,(\d+,\d+)$", r",6,\1"), ", line 2: the rating '6' is none of 1, 2, 3, 4, 5"),
        (nth_line(2, r",\d,(\d+,\d+)$", r",,\1"), ", line 2: the rating '' is none of"),
        (nth_line(2, r",\d,(\d+,\d+)$", r",3.5,\1"), ", line 2: the rating '3.5' is none of"),
        (nth_line(3, r",\d+,(\d+)$", r",soon,\1"), ", line 3: the seconds 'soon' are no whole number"),
        (nth_line(3, r",D,", ",E,"), ", line 3: is by 'E', the lines before by 'D'"),
        (nth_line(2, r",D,", ",=1+1,"), ", line 2: '=1+1' cannot be the name of a rater"),
        (nth_line(6, r",\d+$", ""), ", line 6: has 5 values for 6 columns"),
        (nth_line(1, "rating", "score"), ", line 1: has no column 'rating'"),
        (lambda text: "", ", line 1: has no column 'set'"),
        (lambda text: text.splitlines()[0], ": holds no ratings"),
        (lambda text: "\n".join(text.splitlines()[:-2]), ": 2 of 6 items have no rating (item-5, item-6)"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_line(
    edit: Edit, message: str, sheets: list[Path], page: Path, tmp_path: Path
) -> None:
    spoilt = write_csv(tmp_path, page, "D", edit=edit)
    assert f"{spoilt}{message}" in score(page, tmp_path / "out", *sheets, spoilt).refusal
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_text_is_named(sheets: list[Path], page: Path, tmp_path: Path) -> None:
    sheets[1].write_bytes(texture(0).tobytes())
    assert f"{sheets[1]}: is not UTF-8 text" in score(page, tmp_path / "out", *sheets).refusal
    assert (
        f"{tmp_path / 'none.csv'}: cannot be read"
        in score(page, tmp_path / "out", tmp_path / "none.csv").refusal
    )


def test_a_rater_counts_once(sheets: list[Path], page: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    again = write_csv(tmp_path / "again", page, "dr. MÜLLER")
    refusal = score(page, tmp_path / "out", *sheets, again).refusal
    assert str(again) in refusal
    assert str(sheets[0]) in refusal


def test_unfinished_ratings_are_scored_only_when_asked(
    page: Path, pairs: Path, synthetic: Path, tmp_path: Path
) -> None:
    larger = tmp_path / "larger.html"
    make_page(pairs, synthetic, larger, "--count", 4)
    whole = write_csv(tmp_path, larger, "A")
    part = write_csv(tmp_path, larger, "B", edit=lambda text: "\n".join(text.splitlines()[:-1]))
    assert "1 of 8 items have no rating (item-8)" in score(larger, tmp_path / "out", whole, part).refusal

    outcome = score(larger, tmp_path / "out", whole, part, "--allow-missing")
    assert outcome.status == 0, outcome.errors
    assert "1 of 8 items are left out" in outcome.output
    result = json.loads((tmp_path / "out" / "ratings.json").read_text("utf-8"))
    assert sorted(source["items"] for source in result["sources"]) == [3, 4]

    hardly = write_csv(tmp_path, larger, "C", edit=lambda text: "\n".join(text.splitlines()[:2]))
    refusal = score(larger, tmp_path / "x", whole, hardly, "--allow-missing").refusal
    assert "fewer than 2 of its items were rated by every rater" in refusal


def test_results_are_not_written_over_others(sheets: list[Path], page: Path, tmp_path: Path) -> None:
    score(page, tmp_path / "out", *sheets)
    before = read_tree(tmp_path / "out")
    assert "must be a new or empty folder" in score(page, tmp_path / "out", *sheets[:2]).refusal
    assert read_tree(tmp_path / "out") == before


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"set": "s", "sources": [], "settings": {}, "items": []}']
)
def test_a_file_that_is_no_key_is_refused(
    content: str, sheets: list[Path], page: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.key.json"
    wrong.write_text(content)
    assert f"{wrong}: is no key" in score(page, tmp_path / "out", *sheets, "--key", wrong).refusal
    assert "cannot be read" in score(page, tmp_path / "out", *sheets, "--key", tmp_path / "none").refusal


@pytest.mark.parametrize("name", ["key", "output"])
def test_a_missing_path_is_asked_for(name: str, sheets: list[Path], page: Path, tmp_path: Path) -> None:
    given = {"key": page.with_name(page.name + ".key.json"), "output": tmp_path / "out"}
    del given[name]
    flags = [part for key, path in given.items() for part in (f"--{key}", path)]
    assert run_here(rate.main, "score", *sheets, *flags).refusal == f"--{name} is needed"
