"""The rating page in a real browser: a rater's way from the name to the file, interruptions included."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.browser import FLAGS, browser_or_skip
from tests.support.commands import run_here
from training import rate

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

COUNT = 4
ITEMS = 2 * COUNT
SETTLED_MS = 300  # the page takes no rating in the first quarter of a second of an image


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    executable = browser_or_skip()
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "painted").mkdir()
    for number in range(COUNT):
        noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "painted" / f"{number}.png")
    output = folder / "rating.html"
    sources = ("--real", pairs, "--synthetic", folder / "painted")
    outcome = run_here(rate.main, "page", *sources, "--output", output, "--count", COUNT)
    assert outcome.status == 0, outcome.errors
    return output


class Visit:
    """A rater at the page; every request and error of the page is kept."""

    def __init__(self, browser: Any, page_file: Path, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.file = page_file
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.open()

    def open(self) -> None:
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.goto(self.file.as_uri())

    def start(self, name: str) -> None:
        self.page.fill("#name", name)
        self.page.click("text=Start")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.wait_for_timeout(SETTLED_MS)
            self.page.keyboard.press(key)

    def place(self) -> str:
        return str(self.page.inner_text("#place"))

    def chosen(self) -> list[str]:
        return [button.inner_text()[0] for button in self.page.query_selector_all("[aria-pressed=true]")]

    def order(self) -> list[str]:
        """The images in the order of the visit, from its first."""
        seen = []
        for _ in range(ITEMS):
            seen.append(self.page.get_attribute("#image", "src"))
            self.page.click("#next")
        return seen

    def save(self, path: Path) -> Path:
        with self.page.expect_download() as download:
            self.page.click("#save")
        download.value.save_as(path)
        return path


@pytest.fixture
def visit(chromium: Any, page_file: Path) -> Iterator[Visit]:
    made = Visit(chromium, page_file)
    yield made
    made.context.close()
    assert made.errors == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in made.requests)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_a_rater_rates_all_images_by_keys_and_the_file_can_be_scored(visit: Visit, tmp_path: Path) -> None:
    visit.start("Dr. Ana Müller")
    assert visit.place() == f"Image 1 of {ITEMS}"
    ratings = [str(1 + number % 5) for number in range(ITEMS)]
    visit.press(*ratings)
    assert visit.page.inner_text("#overview-title") == "All images are rated"

    saved = rows(visit.save(tmp_path / "ratings.csv"))
    assert [row["rating"] for row in saved] == ratings
    assert [row["order"] for row in saved] == [str(place) for place in range(1, ITEMS + 1)]
    assert {row["rater"] for row in saved} == {"Dr. Ana Müller"}
    key = visit.file.with_name(visit.file.name + ".key.json")
    assert {row["item"] for row in saved} == set(json.loads(key.read_text("utf-8"))["items"])
    flags = ("--key", key, "--output", tmp_path / "out")
    outcome = run_here(rate.main, "score", tmp_path / "ratings.csv", *flags)
    assert outcome.status == 0, outcome.errors


def test_a_closed_page_goes_on_where_it_was_left(visit: Visit, tmp_path: Path) -> None:
    visit.start("B")
    visit.press("4", "2")
    visit.page.close()

    visit.open()
    assert visit.page.input_value("#name") == "B"
    visit.page.click("text=Start")
    assert visit.place() == f"Image 3 of {ITEMS}"
    visit.page.click("#back")
    assert visit.chosen() == ["2"]
    visit.press("5")
    visit.page.click("#to-overview")
    assert [row["rating"] for row in rows(visit.save(tmp_path / "b.csv"))] == ["4", "5"]


def test_missing_ratings_are_shown_before_the_file_is_saved(visit: Visit) -> None:
    visit.start("C")
    visit.press("1", "ArrowRight", "3", "ArrowRight", *["5"] * (ITEMS - 4))
    assert visit.page.inner_text("#overview-title") == f"{ITEMS - 2} of {ITEMS} images are rated"
    assert "2 images have no rating yet" in visit.page.inner_text("#overview-text")
    assert visit.page.inner_text("#save") == "Save unfinished ratings"
    open_ones = [button.inner_text() for button in visit.page.query_selector_all("#grid .open")]
    assert [text.split()[0] for text in open_ones] == ["2", "4"]

    visit.page.click("text=Continue with image 2")
    visit.press("2")
    visit.page.click("#to-overview")
    visit.page.click("#grid .open")
    assert visit.place() == f"Image 4 of {ITEMS}"
    visit.press("2")
    visit.page.click("#to-overview")
    assert visit.page.inner_text("#overview-title") == "All images are rated"


def test_the_order_is_a_raters_own_and_stays(chromium: Any, page_file: Path) -> None:
    orders = []
    for name in ("Ana", " ana ", "Ben", "Chris"):
        visit = Visit(chromium, page_file)
        visit.start(name)
        orders.append(visit.order())
        visit.context.close()
    assert all(len(set(order)) == ITEMS for order in orders)
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3


def test_raters_at_one_computer_do_not_see_each_others_ratings(visit: Visit) -> None:
    visit.start("First")
    visit.press("5", "5")
    visit.page.reload()
    visit.start("Second")
    assert visit.place() == f"Image 1 of {ITEMS}"
    assert visit.chosen() == []


@pytest.mark.parametrize("name", ["", "   ", "=1+1", "@home", "-1", "a,b", 'a"b', "<b>", "x" * 41])
def test_a_name_that_could_harm_a_spreadsheet_is_refused(name: str, visit: Visit) -> None:
    visit.start(name)
    assert "letters" in visit.page.inner_text("#name-problem")
    assert visit.page.is_hidden("#rate")


def test_a_double_tap_rates_one_image(visit: Visit) -> None:
    visit.start("D")
    visit.page.wait_for_timeout(SETTLED_MS)
    visit.page.evaluate("() => { const b = document.querySelector('#scale button'); b.click(); b.click(); }")
    assert visit.place() == f"Image 2 of {ITEMS}"
    assert visit.chosen() == []


def test_damaged_stored_answers_are_ignored(visit: Visit) -> None:
    set_id = visit.page.evaluate("() => JSON.parse(document.getElementById('data').textContent).set")
    for stored in ("{", "7", "null", '{"answers": {"item-1": {"rating": 9, "ms": "x"}}, "position": 99}'):
        visit.page.evaluate(
            "([key, value]) => localStorage.setItem(key, value)", [f"image-rating/{set_id}/e", stored]
        )
        visit.page.reload()
        visit.start("E")
        assert visit.place() == f"Image 1 of {ITEMS}"
        assert visit.chosen() == []


def test_a_browser_without_storage_says_so_and_works(chromium: Any, page_file: Path) -> None:
    visit = Visit(chromium, page_file)
    visit.page.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new Error('forbidden'); } });"
    )
    visit.page.reload()
    assert "cannot keep your answers" in visit.page.inner_text("#no-store")
    visit.start("F")
    visit.press("3")
    assert visit.place() == f"Image 2 of {ITEMS}"
    assert visit.errors == []
    visit.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (820, 1180), (1180, 820), (375, 667)])
def test_image_and_scale_fit_the_screen(
    width: int, height: int, scheme: str, chromium: Any, page_file: Path, tmp_path: Path
) -> None:
    visit = Visit(chromium, page_file, viewport={"width": width, "height": height}, color_scheme=scheme)
    visit.start("G")
    sizes = visit.page.evaluate(
        "() => { const e = document.documentElement; return [e.scrollWidth, e.scrollHeight]; }"
    )
    assert sizes[0] <= width
    assert sizes[1] <= height
    for button in visit.page.query_selector_all("#rate button"):
        box = button.bounding_box()
        assert min(box["width"], box["height"]) >= 44  # WCAG 2.5.5: the size of a finger
    folder = Path(os.environ.get("SIAMESE_SCREENSHOTS", tmp_path))
    visit.page.screenshot(path=folder / f"rating_{scheme}_{width}.png")
    visit.context.close()


def test_every_control_has_a_name_to_be_read_out(visit: Visit) -> None:
    assert visit.page.get_by_label("Your name or code").is_visible()
    visit.start("H")
    scale = visit.page.get_by_role("group", name="How real does this image look?")
    for number, meaning in ((1, "certainly artificial"), (5, "certainly real")):
        assert scale.get_by_role("button", name=f"{number} {meaning}").is_visible()
    assert visit.page.get_by_role("img", name="Image 1, to be rated").is_visible()
    assert visit.page.get_by_role("progressbar", name="Rated images").is_visible()
    visit.page.click("#to-overview")
    assert visit.page.get_by_role("button", name="Image 2, not rated").is_visible()
