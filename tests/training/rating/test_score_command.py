"""training.rate score: ratings of the page scored, and files that cannot be used."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import Outcome, run_here
from tests.support.folders import read_tree
from tests.support.rating import COUNT, key_of, make_page, texture
from training import rate

Edit = Callable[[str], str]


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
