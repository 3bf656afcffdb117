"""The pack in a real browser: workflows open with every node known, Run finishes, the picture shows."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import FLAGS, browser_or_skip

from .conftest import PACK, ROOT
from .support.server import Host

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

# What the page says of the graph on it: ids of nodes that it does not know or that are in error.
PROBLEMS = """() => ({
    unknown: app.graph._nodes.filter(n => !/Note/.test(n.type) && !n.constructor.comfyClass).map(n => n.type),
    errors: app.graph._nodes.filter(n => n.has_errors).map(n => n.type),
    missing: /missing node/i.test(document.body.innerText),
    nodes: app.graph._nodes.length,
})"""


@pytest.fixture(scope="module")
def page(host: Host) -> Iterator[Any]:
    """The host's page in a fresh profile, past its first-run dialog."""
    browser = browser_or_skip()
    # A workflow names these, and a file that is not there counts as an error of its node.
    for model in ("checkpoints/v1-5-pruned-emaonly.safetensors", "controlnet/adapter.safetensors"):
        (host.models_dir / model).parent.mkdir(parents=True, exist_ok=True)
        (host.models_dir / model).touch()
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        opened = chromium.new_page(viewport={"width": 1600, "height": 1000})
        opened.goto(host.url)
        opened.wait_for_function(
            "window.LiteGraph && LiteGraph.registered_node_types.KSampler && window.app?.graph",
            timeout=120_000,
        )
        opened.wait_for_timeout(1000)
        opened.keyboard.press("Escape")
        yield opened
        chromium.close()


def show(page: Any, workflow: dict[str, Any]) -> dict[str, Any]:
    page.evaluate("graph => app.loadGraphData(graph)", workflow)
    page.wait_for_timeout(1000)
    found: dict[str, Any] = page.evaluate(PROBLEMS)
    return found


def assert_sound(found: dict[str, Any], workflow: dict[str, Any]) -> None:
    assert found == {"unknown": [], "errors": [], "missing": False, "nodes": len(workflow["nodes"])}


def read(name: str) -> dict[str, Any]:
    workflow: dict[str, Any] = json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))
    return workflow


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_a_workflow_opens_with_every_node_known(page: Any, path: Path) -> None:
    workflow = json.loads(path.read_text("utf-8"))
    assert_sound(show(page, workflow), workflow)
    # Widgets are stored by position: what the page would save again is what was opened.
    saved = page.evaluate("() => app.graph.serialize()")
    values = {node["id"]: node.get("widgets_values") for node in saved["nodes"]}
    for node in workflow["nodes"]:
        assert values[node["id"]] == node["widgets_values"], node["type"]


def test_a_broken_workflow_fails_the_same_test(page: Any) -> None:
    workflow = read("quick_start")
    workflow["nodes"][0]["type"] = "SiameseNoSuchNode"
    with pytest.raises(AssertionError):
        assert_sound(show(page, workflow), workflow)
    page.keyboard.press("Escape")


@pytest.mark.parametrize(
    ("name", "generating", "showing"),
    [
        ("quick_start", "SiameseMaskDiffusionSampler", "SiamesePreviewPairs"),
        ("generate_dataset", "SiameseGenerateDataset", "SiameseGenerateDataset"),
    ],
)
def test_run_generates_and_the_picture_shows(
    name: str, generating: str, showing: str, page: Any, host: Host, tmp_path: Path
) -> None:
    workflow = read(name)
    for node in workflow["nodes"]:
        if node["type"] == generating:
            node["widgets_values"][node["widgets_values"].index(15)] = 6  # steps: this is about the page
            # A dataset of other settings may be there from another test, and would be refused.
            values = node["widgets_values"]
            node["widgets_values"] = [
                "page_set" if value == "generated_dataset" else value for value in values
            ]
    assert_sound(show(page, workflow), workflow)
    known = set(host.get("/history"))
    page.evaluate("() => app.queuePrompt(0, 1)")
    end = time.monotonic() + 600
    while not (new := set(host.get("/history")) - known):
        assert time.monotonic() < end, "Run did not finish"
        time.sleep(0.5)
    (entry,) = (host.get("/history")[prompt] for prompt in new)
    assert entry["status"]["status_str"] == "success"
    preview = next(node["id"] for node in workflow["nodes"] if node["type"] == showing)
    shown = f"() => app.graph.getNodeById({preview}).imgs?.[0]?.naturalWidth > 100"
    page.wait_for_function(shown, timeout=30_000)
    assert_sound(page.evaluate(PROBLEMS), workflow)
    shot = Path(os.environ.get("SIAMESE_SCREENSHOTS", tmp_path)) / f"{name}.png"
    page.screenshot(path=shot)
    assert shot.stat().st_size > 10_000


def test_the_template_browser_lists_the_workflows(host: Host) -> None:
    templates = host.get("/workflow_templates")
    (listed,) = (names for names in templates.values() if "quick_start" in names)
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))


@pytest.mark.parametrize("language", ["", "/zh"])
def test_help_pages_are_served(host: Host, language: str) -> None:
    for node in host.object_info():
        if node.startswith("Siamese"):
            route = f"/extensions/{PACK}/docs/{node}{language}.md"
            with urllib.request.urlopen(host.url + route, timeout=30) as answer:
                assert len(answer.read()) > 500, route


def test_chinese_names_are_served(host: Host) -> None:
    translations = host.get("/i18n")
    chinese = translations["zh"]["nodeDefs"]
    assert "SiameseLoadMasks" in chinese
    assert chinese["SiameseLoadMasks"]["display_name"] != "Load Masks"
