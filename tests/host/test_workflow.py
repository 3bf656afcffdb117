"""Saved workflows become the prompts that the page would queue."""

from __future__ import annotations

from typing import Any

import pytest

from .support.server import Host
from .support.workflow import WorkflowError, to_prompt

INFO: dict[str, Any] = {
    "Source": {"input": {"required": {"name": [["a.png", "b.png"], {"image_upload": True}]}}},
    "Sampler": {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "seed": ["INT", {"default": 0}],
                "steps": ["INT", {"default": 20}],
                "forced": ["FLOAT", {"forceInput": True}],
            },
            "optional": {"mask": ["MASK"], "mode": ["COMBO", {"options": ["fast", "slow"]}]},
        },
        "input_order": {"required": ["image", "steps", "seed", "forced"], "optional": ["mask", "mode"]},
    },
}


def node(node_id: int, kind: str, values: Any = None, **fields: Any) -> dict[str, Any]:
    return {"id": node_id, "type": kind, "mode": 0, "widgets_values": values, **fields}


def slot(name: str, link: int | None, kind: str = "IMAGE") -> dict[str, Any]:
    return {"name": name, "type": kind, "link": link}


def workflow(*nodes: dict[str, Any], links: list[list[Any]] | None = None) -> dict[str, Any]:
    return {"nodes": list(nodes), "links": links or []}


def test_values_go_by_position_past_the_pages_own_widgets() -> None:
    source = node(1, "Source", ["b.png", "image"])
    sampler = node(2, "Sampler", [30, 7, "randomize", "slow"], inputs=[slot("image", 5)])
    note = node(3, "MarkdownNote", ["words"])

    prompt = to_prompt(workflow(source, sampler, note, links=[[5, 1, 0, 2, 0, "IMAGE"]]), INFO)

    sampled = {"image": ["1", 0], "steps": 30, "seed": 7, "mode": "slow"}
    assert prompt == {
        "1": {"class_type": "Source", "inputs": {"name": "b.png"}},
        "2": {"class_type": "Sampler", "inputs": sampled},
    }


def test_a_link_replaces_the_value_of_the_widget_it_goes_into() -> None:
    source = node(1, "Source", ["a.png", "image"])
    steps = {**slot("steps", 5, "INT"), "widget": {"name": "steps"}}
    sampler = node(2, "Sampler", [30, 7, "fixed", "slow"], inputs=[slot("image", None), steps])

    prompt = to_prompt(workflow(source, sampler, links=[[5, 1, 0, 2, 1, "INT"]]), INFO)

    assert prompt["2"]["inputs"] == {"steps": ["1", 0], "seed": 7, "mode": "slow"}


def test_a_widget_younger_than_the_workflow_has_its_default() -> None:
    prompt = to_prompt(workflow(node(2, "Sampler", [30])), INFO)
    assert prompt["2"]["inputs"] == {"steps": 30, "seed": 0, "mode": "fast"}


def test_values_that_no_widget_takes_are_an_error() -> None:
    with pytest.raises(WorkflowError, match=r"Node 2 \(Sampler\) has 5 widget values where 4 fit"):
        to_prompt(workflow(node(2, "Sampler", [30, 7, "fixed", "slow", 1.0])), INFO)


def test_a_node_that_the_host_lacks_is_an_error() -> None:
    with pytest.raises(WorkflowError, match=r"Node 1 \(Reroute\) is no node of this host"):
        to_prompt(workflow(node(1, "Reroute")), INFO)


@pytest.mark.parametrize(("mode", "arrives"), [(2, None), (4, ["1", 0])], ids=["muted", "bypassed"])
def test_muted_and_bypassed_nodes_are_left_out(mode: int, arrives: list[Any] | None) -> None:
    source = node(1, "Source", ["a.png", "image"])
    skipped = node(2, "Sampler", [30], inputs=[slot("mask", None, "MASK"), slot("image", 5)])
    skipped |= {"mode": mode, "outputs": [{"name": "IMAGE", "type": "IMAGE"}]}
    sampler = node(3, "Sampler", [30], inputs=[slot("image", 6)])
    links: list[list[Any]] = [[5, 1, 0, 2, 1, "IMAGE"], [6, 2, 0, 3, 0, "IMAGE"]]

    prompt = to_prompt(workflow(source, skipped, sampler, links=links), INFO)

    assert prompt.keys() == {"1", "3"}
    assert prompt["3"]["inputs"].get("image") == arrives


def test_a_converted_workflow_runs(host: Host) -> None:
    empty = node(1, "EmptyImage", [16, 16, 1, 255])
    blurred = node(2, "ImageBlur", [3, 1.0], inputs=[slot("image", 1)])
    save = node(3, "SaveImage", ["converted"], inputs=[slot("images", 2)])
    links: list[list[Any]] = [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]]

    entry = host.run(to_prompt(workflow(empty, blurred, save, links=links), host.object_info()))

    assert entry["outputs"]["3"]["images"][0]["filename"].startswith("converted")
