"""A workflow as the page saves it, turned into the prompt that the page would queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOTES = {"Note", "MarkdownNote"}
MUTED, BYPASSED = 2, 4
_WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
_UPLOADS = {"image_upload", "video_upload", "audio_upload"}


class WorkflowError(Exception):
    """The workflow does not fit the nodes that the host has; the message says where."""


def to_prompt(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt (API format) of a saved ``workflow``; ``object_info`` names the widgets, stored by position.

    Not covered: subgraphs and nodes that live in the page alone (Primitive, the old Reroute).
    """
    nodes = {node["id"]: node for node in workflow["nodes"] if node["type"] not in NOTES}
    links = {link[0]: (link[1], link[2]) for link in workflow["links"]}
    prompt: dict[str, Any] = {}
    for node in nodes.values():
        if node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        if node["type"] not in object_info:
            raise WorkflowError(f"{_name(node)} is no node of this host.")
        inputs = _widget_values(node, object_info[node["type"]])
        for slot in node.get("inputs", []):
            source = _source(slot.get("link"), nodes, links)
            if source is not None:
                inputs[slot["name"]] = source
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def _source(
    link: int | None, nodes: Mapping[Any, Mapping[str, Any]], links: Mapping[int, tuple[Any, int]]
) -> list[Any] | None:
    """Id and slot of the output behind a link, past bypassed nodes; None where nothing is connected."""
    if link is None:
        return None
    node_id, slot = links[link]
    node = nodes[node_id]
    mode = node.get("mode", 0)
    if mode == MUTED:
        return None
    if mode == BYPASSED:
        # As the page does: the input in the output's place when it is of the type, else the first that is.
        wanted, inputs = node["outputs"][slot]["type"], node.get("inputs", [])
        fitting = [other["link"] for other in [*inputs[slot : slot + 1], *inputs] if other["type"] == wanted]
        return _source(fitting[0], nodes, links) if fitting else None
    return [str(node_id), slot]


def _widget_values(node: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a node's widgets by name; a widget younger than the workflow has its default."""
    widgets = _widgets(schema)
    values = node.get("widgets_values") or []
    if isinstance(values, Mapping):
        named = dict(values)
    else:
        places = _places(widgets)
        if len(values) > len(places):
            raise WorkflowError(f"{_name(node)} has {len(values)} widget values where {len(places)} fit.")
        named = {name: value for name, value in zip(places, values, strict=False) if name is not None}
    result = {}
    for name, (kind, options) in widgets.items():
        value = named[name] if name in named else _default(kind, options)
        # A bare list would be read as a link.
        result[name] = {"__value__": value} if isinstance(value, list) else value
    return result


def _widgets(schema: Mapping[str, Any]) -> dict[str, tuple[Any, Mapping[str, Any]]]:
    """Type and options of the inputs that the page shows as widgets, in its order."""
    found = {}
    for group in ("required", "optional"):
        inputs = schema["input"].get(group, {})
        for name in schema.get("input_order", {}).get(group, inputs):
            kind, options = inputs[name][0], inputs[name][1] if len(inputs[name]) > 1 else {}
            if (isinstance(kind, list) or kind in _WIDGETS) and not options.get("forceInput"):
                found[name] = (kind, options)
    return found


def _places(widgets: Mapping[str, tuple[Any, Mapping[str, Any]]]) -> list[str | None]:
    """The widget of each saved value; None for widgets of the page's own, which no prompt contains."""
    places: list[str | None] = []
    uploads = False
    for name, (kind, options) in widgets.items():
        places.append(name)
        if kind == "INT" and options.get("control_after_generate", name in ("seed", "noise_seed")):
            places.append(None)  # what to do with the seed after a run
        elif (isinstance(kind, list) or kind == "COMBO") and options.get("control_after_generate"):
            places += [None, None]  # the same, and a filter of the list
        uploads = uploads or any(options.get(upload) for upload in _UPLOADS)
    return [*places, None] if uploads else places  # the upload button


def _default(kind: Any, options: Mapping[str, Any]) -> Any:
    """What the page puts into a widget whose value the workflow does not have."""
    if "default" in options:
        return options["default"]
    choices: Sequence[Any] = kind if isinstance(kind, list) else options.get("options", [])
    if choices:
        return choices[0]
    return {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}.get(kind)


def _name(node: Mapping[str, Any]) -> str:
    return f"Node {node['id']} ({node['type']})"
