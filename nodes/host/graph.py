"""The graph that a node runs in: what image files carry of it, and what of it decides a node's result."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from comfy.cli_args import args as host_arguments


def graph_text(hidden: Any) -> dict[str, str]:
    """The graph, for image files, so that dropping one on the page brings it back; {} where unwanted.

    ``hidden`` are a node's hidden inputs, with ``prompt`` and ``extra_pnginfo``.
    """
    if host_arguments.disable_metadata:
        return {}
    # The host notes there when files were last changed, which would make equal runs differ.
    prompt = {
        number: {key: value for key, value in node.items() if key != "is_changed"}
        for number, node in (hidden.prompt or {}).items()
    }
    graph: dict[str, Any] = {"prompt": prompt or None, **(hidden.extra_pnginfo or {})}
    return {key: json.dumps(value) for key, value in graph.items() if value is not None}


def nodes_before(hidden: Any) -> dict[str, str]:
    """A digest of all nodes that a node depends on: models, prompts, LoRAs and what else decides.

    ``hidden`` are the node's hidden inputs, with ``prompt`` and ``unique_id``.
    """
    prompt, own = hidden.prompt or {}, str(hidden.unique_id)
    facts: dict[str, Any] = {}
    waiting = [own]
    while waiting:
        number = waiting.pop()
        if number in facts or number not in prompt:
            continue
        node = prompt[number]
        facts[number] = (node["class_type"], node["inputs"])
        links = [value for value in node["inputs"].values() if isinstance(value, list) and value]
        waiting += [str(link[0]) for link in links]
    facts.pop(own, None)  # its own widgets are compared one by one
    text = json.dumps(facts, sort_keys=True, default=str)
    return {"nodes_before": hashlib.sha256(text.encode()).hexdigest()}
