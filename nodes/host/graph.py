"""The graph around a node: embedding it in image files, and tracing what a node's result depends on."""

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
"""The inputs that determine the image for a given mask and seed."""

_PRIMITIVE = "Primitive"
"""Class name prefix of ComfyUI's nodes that only hold a value."""

_ADDED_LATER: Mapping[str, Mapping[str, Any]] = {"SiameseRandomMaskTransform": {"beyond": "background"}}
"""Inputs that a node got after datasets were begun with it, with their defaults."""


def graph_text(hidden: Any) -> dict[str, str]:
    """The graph as PNG text, so that dropping the image on the page restores it; {} if metadata are disabled.

    ``hidden`` are a node's hidden inputs, with ``prompt`` and ``extra_pnginfo``.
    """
    if host_arguments.disable_metadata:
        return {}
    # The host's "is_changed" contains file times, by which equal runs would differ.
    prompt = {
        number: {key: value for key, value in node.items() if key != "is_changed"}
        for number, node in (hidden.prompt or {}).items()
    }
    graph: dict[str, Any] = {"prompt": prompt or None, **(hidden.extra_pnginfo or {})}
    return {key: json.dumps(value) for key, value in graph.items() if value is not None}


def sources(hidden: Any, names: Sequence[str], skipped: Collection[str] = ()) -> dict[str, Any] | None:
    """Everything that the inputs ``names`` of a node depend on: widgets and links of all nodes before it.

    ``hidden`` are the node's hidden inputs, with ``prompt`` and ``unique_id``. Keys of the result are the
    names and ``NODE.INPUT``. A node is named by its class, the second of a class ``CLASS 2``, in the order of
    the traversal, so ids, titles and subgraphs do not matter. The value of a primitive node counts as typed
    into the widget. Inputs named in ``skipped`` are not followed.

    None when the graph does not contain the node, because another node has created it at run time.
    """
    prompt = hidden.prompt or {}
    own = prompt.get(str(hidden.unique_id))
    if own is None:
        return None
    walk = _Walk(prompt)
    found = {name: walk.value(own["inputs"].get(name)) for name in names}
    while walk.waiting:
        number = walk.waiting.popleft()
        for name, value in sorted(_inputs(prompt[number]).items()):
            if name not in skipped:
                found[f"{walk.labels[number]}.{name}"] = walk.value(value)
    return found


def prompt_behind(hidden: Any, name: str) -> str:
    """The text of the CLIP Text Encode that input ``name`` depends on; "" unless there is exactly one."""
    found = sources(hidden, [name], skipped=("negative",)) or {}
    texts = [
        value for key, value in found.items() if key.startswith("CLIPTextEncode") and key.endswith(".text")
    ]
    return texts[0] if len(texts) == 1 and isinstance(texts[0], str) else ""


def made_by(
    hidden: Any, known: Collection[str] = (), begun: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Everything that a node's networks depend on: widgets, links (:func:`sources`) and digests of files.

    LoRAs, merges and patches are nodes and therefore included. Files are those of models, and of ComfyUI's
    input folder. Digests in ``known`` are left out, and those of input files that ``begun``, the result of an
    earlier version for a dataset to resume, lacks. None when :func:`sources` returns None.
    """
    found = sources(hidden, NETWORKS)
    if found is None:
        return None
    contents = {name: digest for name, digest in _model_contents(found).items() if digest not in known}
    inputs = _input_contents(found)
    if begun is not None:
        inputs = {name: digest for name, digest in inputs.items() if name in begun}
    return {**found, **contents, **inputs}


def nodes_before(hidden: Any) -> str:
    """A digest of all nodes before a node, ids included, for resuming datasets begun by earlier versions."""
    prompt, own = hidden.prompt or {}, str(hidden.unique_id)
    facts: dict[str, Any] = {}
    waiting = [own]
    while waiting:
        number = waiting.pop()
        if number in facts or number not in prompt:
            continue
        node = prompt[number]
        facts[number] = (node["class_type"], _inputs(node))
        links = [value for value in node["inputs"].values() if isinstance(value, list) and value]
        waiting += [str(link[0]) for link in links]
    facts.pop(own, None)  # its own widgets are compared one by one
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _inputs(node: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a node, without those that it got later and that have their default.

    A graph that began a dataset before lacks them; the page adds them when the graph is opened again.
    """
    later = _ADDED_LATER.get(node["class_type"], {})
    return {
        name: value for name, value in node["inputs"].items() if name not in later or later[name] != value
    }


class _Walk:
    """State of a graph traversal: names of the nodes visited, and nodes whose inputs are still pending."""

    def __init__(self, prompt: Mapping[str, Any]) -> None:
        self.prompt = prompt
        self.labels: dict[str, str] = {}
        self.waiting: deque[str] = deque()
        self._counts: dict[str, int] = {}

    def value(self, value: Any) -> Any:
        """A typed ``value``, or [node name, output number] for a link; long values as their digest."""
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


def _input_contents(values: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of every file named in ``values`` as Load Image does: below ComfyUI's input folder."""
    found = {}
    for text in sorted({value for value in values.values() if isinstance(value, str)}):
        if folder_paths.exists_annotated_filepath(text):
            path = Path(folder_paths.get_annotated_filepath(text))
            if path.is_file():
                found[f"content of input/{text}"] = FileState.of(path).digest()
    return found


def _model_contents(values: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of every model file named in ``values``, with keys ``content of FOLDER/NAME``."""
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
