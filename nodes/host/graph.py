"""The graph that a node runs in: what image files carry of it, and what of it decides a node's result."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args as host_arguments

from .file_state import FileState

_LONGEST_VALUE = 4000
NETWORKS = ("model", "control_net", "positive", "negative", "vae")
"""The inputs that decide how an image of a mask and a seed comes out."""

_PRIMITIVE = "Primitive"
"""How the classes of core nodes begin that hold a value and nothing else."""


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


def sources(hidden: Any, names: Sequence[str], skipped: Collection[str] = ()) -> dict[str, Any] | None:
    """What the inputs ``names`` of a node come from: the widgets and links of all nodes before them.

    ``hidden`` are the node's hidden inputs, with ``prompt`` and ``unique_id``. Keys are the names and
    ``NODE.INPUT``; a node is called by its class, the second of a class ``CLASS 2``, in the order in which
    they are met. So neither ids nor titles nor subgraphs matter. A value from a node that holds one and
    nothing else counts as typed. Inputs called as ``skipped`` are not followed.

    None when the graph does not show the node: another one has made it while running.
    """
    prompt = hidden.prompt or {}
    own = prompt.get(str(hidden.unique_id))
    if own is None:
        return None
    walk = _Walk(prompt)
    found = {name: walk.value(own["inputs"].get(name)) for name in names}
    while walk.waiting:
        number = walk.waiting.popleft()
        for name, value in sorted(prompt[number]["inputs"].items()):
            if name not in skipped:
                found[f"{walk.labels[number]}.{name}"] = walk.value(value)
    return found


def prompt_behind(hidden: Any, name: str) -> str:
    """The text of the CLIP Text Encode that the input ``name`` comes from; "" when it is not a single one."""
    found = sources(hidden, [name], skipped=("negative",)) or {}
    texts = [
        value for key, value in found.items() if key.startswith("CLIPTextEncode") and key.endswith(".text")
    ]
    return texts[0] if len(texts) == 1 and isinstance(texts[0], str) else ""


def made_by(hidden: Any, known: Collection[str] = ()) -> dict[str, Any] | None:
    """All that the networks of a node come from: widgets and links of the nodes before it, and model files.

    A LoRA, a merge or a patch is a node of its own, and so is named. Digests that are ``known`` are left out.
    None as in :func:`sources`.
    """
    found = sources(hidden, NETWORKS)
    if found is None:
        return None
    contents = _file_contents(found)
    return {**found, **{name: digest for name, digest in contents.items() if digest not in known}}


def nodes_before(hidden: Any) -> str:
    """A digest of all nodes before a node, ids included: with it, sets begun by earlier versions resume."""
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
    return hashlib.sha256(text.encode()).hexdigest()


class _Walk:
    """Names of the nodes that were met, and those whose inputs are still to be looked at."""

    def __init__(self, prompt: Mapping[str, Any]) -> None:
        self.prompt = prompt
        self.labels: dict[str, str] = {}
        self.waiting: deque[str] = deque()
        self._counts: dict[str, int] = {}

    def value(self, value: Any) -> Any:
        """``value`` as typed, or a link as graphs write it: name of the node and number of its output."""
        while (number := self._node(value)) is not None:
            node = self.prompt[number]
            if not node["class_type"].startswith(_PRIMITIVE) or "value" not in node["inputs"]:
                return [self._label(number), value[1]]
            value = node["inputs"]["value"]
        text = json.dumps(value, sort_keys=True, default=str)
        return value if len(text) <= _LONGEST_VALUE else hashlib.sha256(text.encode()).hexdigest()

    def _node(self, value: Any) -> str | None:
        is_link = isinstance(value, list) and len(value) == 2 and str(value[0]) in self.prompt
        return str(value[0]) if is_link else None

    def _label(self, number: str) -> str:
        if number not in self.labels:
            kind = self.prompt[number]["class_type"]
            count = self._counts[kind] = self._counts.get(kind, 0) + 1
            self.labels[number] = kind if count == 1 else f"{kind} {count}"
            self.waiting.append(number)
        return self.labels[number]


def _file_contents(values: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of every model file that one of ``values`` names, by ``content of FOLDER/NAME``."""
    names = {value for value in values.values() if isinstance(value, str) and _is_model_name(value)}
    found = {}
    for name in sorted(names):
        for kind in sorted(folder_paths.folder_names_and_paths):
            path = folder_paths.get_full_path(kind, name)
            if path is not None and Path(path).is_file():
                found[f"content of {kind}/{name}"] = FileState.of(Path(path)).digest()
    return found


def _is_model_name(text: str) -> bool:
    return Path(text).suffix.lower() in folder_paths.supported_pt_extensions
