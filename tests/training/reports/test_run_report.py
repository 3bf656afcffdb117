from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from siamese_core.contact_sheet import outlined
from training.reports.run_report import Report, Sample, Table, render_report, write_report

HOSTILE = "<script>alert('x')</script> & \"quotes\""


def sample(stem: str = "pair_1", *, real: bool = True, adherence: float | None = 0.875) -> Sample:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    mask = np.zeros((16, 24), np.bool_)
    mask[4:12, 6:18] = True
    return Sample(stem, mask, image[0] if real else None, image[1], "a photo of a polyp", adherence)


def loss_log(steps: int = 30, augmented_from: int = 11) -> list[dict[str, float]]:
    return [
        {
            "step": step,
            "loss": 2 / (step + 1),
            "mask": 1 / (step + 1),
            "image": 0.9 / (step + 1),
            "consistency": 0.1 / (step + 1),
            # As in a run: nothing before a third of it, and then nothing in steps without a fitting sample.
            "augmentation": 0.05 if step >= augmented_from and step % 3 else 0.0,
        }
        for step in range(steps)
    ]


def full_report() -> Report:
    return Report(
        title="A run",
        summary={"mask adherence": 0.87654, "pairs": 1200, "device": "CPU"},
        loss_log=loss_log(),
        samples=[sample("pair_1"), sample("pair_2", adherence=0.5)],
        timings={"training": 3725.0, "sampling": 61.0, "writing": 0.25},
        settings={"seed": 0, "widths": (32, 64)},
        notes=["Drawn, not photographed."],
    )


@cache
def full_page() -> str:
    return render_report(full_report())


class _Page(HTMLParser):
    """What a browser would make of a page: its text, its tags and their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, name: str) -> list[str]:
        return [value for _, attrs in self.tags if (value := attrs.get(name)) is not None]

    def pictures(self) -> dict[str, np.ndarray]:
        return {
            str(attrs["alt"]): np.asarray(
                Image.open(io.BytesIO(base64.b64decode(str(attrs["src"]).partition(",")[2])))
            )
            for tag, attrs in self.tags
            if tag == "img"
        }


def test_a_report_loads_nothing_and_runs_nothing() -> None:
    text = full_page()
    page = _Page(text)
    assert "http://" not in text and "https://" not in text and "@import" not in text
    assert page.attributes("src") and all(
        src.startswith("data:image/png;base64,") for src in page.attributes("src")
    )
    links = page.attributes("href") + page.attributes("xlink:href")
    links += re.findall(r"url\(([^)]*)\)", text)
    assert all(link.startswith("#") for link in links)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}


def test_the_drawings_of_a_page_share_no_ids_that_they_refer_to() -> None:
    text = full_page()
    used = re.findall(r"(?:url\(|xlink:href=\")#(\w+)", text)
    assert used
    for name in set(used):
        assert text.count(f'id="{name}"') == 1


def test_equal_reports_give_equal_pages_and_the_style_of_other_plots_is_left_alone() -> None:
    before = dict(matplotlib.rcParams)
    assert render_report(full_report()) == full_page()
    assert dict(matplotlib.rcParams) == before


def test_a_page_shows_the_facts_the_times_the_settings_and_the_notes() -> None:
    text = _Page(full_page()).text
    for fact in (
        "A run",
        "0.8765",
        "1,200",
        "1 h 02 min",
        "1 min 01 s",
        "0.2 s",
        "(32, 64)",
        "not photographed",
    ):
        assert fact in text
    assert "Dice 0.875" in text and "Dice 0.500" in text
    assert "mean 0.688" in text and "lowest 0.500" in text


def test_a_sample_is_shown_as_mask_real_synthetic_and_outlined_in_its_own_pixels() -> None:
    shown = sample("pair_1")
    pictures = _Page(render_report(replace(full_report(), samples=[shown]))).pictures()
    wanted = [shown.mask * np.uint8(255), shown.real, shown.synthetic, outlined(shown.synthetic, shown.mask)]
    assert len(pictures) == 4
    for picture, pixels in zip(pictures.values(), wanted, strict=True):
        np.testing.assert_array_equal(picture, pixels)


def test_the_nearest_real_image_has_a_column_of_its_own_where_it_was_looked_for() -> None:
    nearest = np.full((16, 24, 3), 77, np.uint8)
    samples = [replace(sample("near"), nearest=nearest), sample("not looked for")]

    page = _Page(render_report(Report("A run", samples=samples)))

    np.testing.assert_array_equal(page.pictures()["nearest real image, near"], nearest)
    assert len(page.pictures()) == 9 and "nearest real" in page.text
    assert "nearest real" not in _Page(full_page()).text


def test_tables_stand_under_their_headings() -> None:
    table = Table(("prompt", "Dice"), [("a <b>", "0.91")], numeric=("Dice",))
    page = _Page(render_report(Report("A run", tables={"By prompt": table})))
    assert "By prompt" in page.text and "a <b>" in page.text and "0.91" in page.text


def test_text_of_the_user_stays_text() -> None:
    hostile = replace(sample(HOSTILE), prompt=HOSTILE)
    page = _Page(
        render_report(
            Report(
                title=HOSTILE,
                summary={HOSTILE: HOSTILE},
                samples=[hostile],
                timings={HOSTILE: 1.0},
                settings={HOSTILE: HOSTILE},
                notes=[HOSTILE],
            )
        )
    )
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(HOSTILE) == 10
    assert f"mask, {HOSTILE}" in page.pictures()


def test_a_sample_without_a_real_image_leaves_its_place_empty() -> None:
    page = _Page(render_report(Report("A run", samples=[sample(real=False)])))
    assert len(page.pictures()) == 3
    assert "none" in page.text


def test_samples_without_adherence_have_no_dice_and_no_histogram() -> None:
    page = _Page(render_report(Report("A run", samples=[sample(adherence=None)])))
    assert "Dice" not in page.text and "Mask adherence" not in page.text


def test_the_augmentation_curve_begins_where_the_term_does() -> None:
    assert "The augmentation term begins at step 11." in _Page(full_page()).text


@pytest.mark.parametrize("empty", ["zero", "missing"])
def test_a_term_that_never_takes_part_is_not_drawn(empty: str) -> None:
    rows = loss_log(augmented_from=30)
    if empty == "missing":
        rows = [{name: value for name, value in row.items() if name != "augmentation"} for row in rows]
    text = _Page(render_report(Report("A run", loss_log=rows))).text
    assert "consistency" in text and "augmentation" not in text


def test_parts_without_content_are_left_out() -> None:
    page = _Page(render_report(Report("A run")))
    assert "h2" not in {tag for tag, _ in page.tags}


def test_a_single_step_and_a_long_run_can_be_drawn() -> None:
    assert "<svg" in render_report(Report("A run", loss_log=loss_log(1)))
    assert len(render_report(Report("A run", loss_log=loss_log(20_000)))) < 600_000


def test_the_written_file_is_the_rendered_page_and_replaces_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")
    write_report(path, full_report())
    assert path.read_text(encoding="utf-8") == full_page()
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
