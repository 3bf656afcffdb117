"""Help pages and locales say of every node what its schema says; read from the source, without a host."""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCS, LOCALES = ROOT / "web" / "docs", ROOT / "locales"
LANGUAGES = ("en", "zh")
HEADINGS = {
    "en": {"inputs": "Inputs", "outputs": "Outputs", "refusals": "Refusals"},
    "zh": {"inputs": "输入", "outputs": "输出", "refusals": "报错与处理"},
}
TYPES = ("io", "TRANSFORM")
"""What the inputs' and outputs' types are attributes of, or are."""

SEED_WIDGET = "control_after_generate"
"""The page's own widget beneath a seed; the schema has no tooltip for it."""


SHARED_INPUTS = {
    part.name: part
    for part in ast.parse((ROOT / "nodes" / "sampling_inputs.py").read_text("utf-8")).body
    if isinstance(part, ast.FunctionDef)
}
"""Functions that make inputs for several nodes."""


@dataclass(frozen=True)
class Slot:
    """An input or output; ``tooltip`` is a pattern, as parts of the schema's text may be computed."""

    name: str
    tooltip: str
    seeds: bool = False


@dataclass(frozen=True)
class Node:
    node_id: str
    display_name: str
    description: str
    inputs: list[Slot]
    outputs: list[Slot]


def text_of(expression: ast.expr | None, hole: str = "…") -> str:
    """The text that ``expression`` makes, with ``hole`` wherever a value is put in; "" when it is no text."""
    if isinstance(expression, ast.Constant) and isinstance(expression.value, str):
        return expression.value
    if isinstance(expression, ast.JoinedStr):
        return "".join(text_of(part, hole) or hole for part in expression.values)
    return ""


def pattern_of(expression: ast.expr | None) -> str:
    return ".+".join(map(re.escape, text_of(expression, "\0").split("\0")))


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    """All calls in their order; in place of one that makes inputs for several nodes, those that make them."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in sorted(found, key=lambda call: (call.lineno, call.col_offset)):
        made = SHARED_INPUTS.get(ast.unparse(call.func))
        yield from [call] if made is None else calls(made)


def keywords(call: ast.Call) -> dict[str | None, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords}


def read_node(tree: ast.Module) -> Node:
    """The node whose schema is in the module ``tree``."""
    head: dict[str | None, ast.expr] = {}
    inputs, outputs = [], []
    for call in calls(tree):
        given, path = keywords(call), ast.unparse(call.func).split(".")
        if path == ["io", "Schema"]:
            head = given
        elif path == ["_number"]:
            inputs.append(Slot(text_of(call.args[0]), pattern_of(call.args[4])))
        elif path[0] in TYPES and path[-1] == "Input" and (name := text_of(call.args[0])):
            control = given.get(SEED_WIDGET)
            seeds = isinstance(control, ast.Constant) and control.value is True
            inputs.append(Slot(name, pattern_of(given.get("tooltip")), seeds))
        elif path[0] in TYPES and path[-1] == "Output":
            kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", path[-2]).upper()  # ControlNet is CONTROL_NET
            name = text_of(given.get("display_name")) or kind
            outputs.append(Slot(name, pattern_of(given.get("tooltip"))))
    texts = [text_of(head.get(key)) for key in ("node_id", "display_name", "description")]
    return Node(texts[0], texts[1], texts[2], inputs, outputs)


SOURCES = {path: path.read_text("utf-8") for path in sorted((ROOT / "nodes").rglob("*.py"))}
NODES = {
    node.node_id: node
    for path, source in SOURCES.items()
    if "node_id=" in source
    for node in [read_node(ast.parse(source, path))]
}
each_node = pytest.mark.parametrize("node", NODES.values(), ids=NODES)
each_language = pytest.mark.parametrize("language", LANGUAGES)


def page(node: Node, language: str) -> str:
    """The page that the host's help shows: ``docs/<id>/<language>.md``, else ``docs/<id>.md``."""
    own = DOCS / node.node_id / f"{language}.md"
    return (DOCS / f"{node.node_id}.md" if language == "en" else own).read_text("utf-8")


def section(node: Node, language: str, name: str) -> str:
    heading = f"\n## {HEADINGS[language][name]}\n"
    text = page(node, language)
    assert text.count(heading) == 1
    return text.partition(heading)[2].partition("\n## ")[0]


def refusals(node: Node, language: str) -> list[list[str]]:
    """What each item of the page's refusals quotes; an item begins ``- *quote*, *quote*:``."""
    items = [line for line in section(node, language, "refusals").splitlines() if line.startswith("- ")]
    return [re.findall(r"\*(.+?)\*", re.split(r"(?<=\*)[:\uff1a]", item)[0]) for item in items]


def listed_names(text: str) -> list[str]:
    """What stands before the colon of every item of the first list in ``text``."""
    # No table: of one with names as long as ours the host's help panel cuts the second column, too.
    assert not [line for line in text.splitlines() if line.startswith("|")]
    lines = itertools.dropwhile(lambda line: not line.startswith("- "), text.splitlines())
    items = itertools.takewhile(lambda line: line.startswith("- "), lines)
    return [re.split(": |\uff1a", item.removeprefix("- "))[0] for item in items]


def locale(language: str) -> dict[str, Any]:
    entries: dict[str, Any] = json.loads((LOCALES / language / "nodeDefs.json").read_text("utf-8"))
    return entries


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    else:
        yield value


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from keys(item)


@cache
def messages() -> str:
    """Every text in the code, values in it left out: what a refusal can say."""
    files = [*SOURCES, *(ROOT / "siamese_core").rglob("*.py")]
    trees = [ast.parse(path.read_text("utf-8"), path) for path in files]
    found = [text_of(node) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.expr)]
    return "\n".join(filter(None, found))


def test_the_schemas_are_understood() -> None:
    ids = {match for source in SOURCES.values() for match in re.findall(r'node_id="(\w+)"', source)}
    assert ids and ids == NODES.keys()
    for node in NODES.values():
        assert node.display_name and node.description and node.inputs and node.outputs
        assert all(slot.name and slot.tooltip for slot in [*node.inputs, *node.outputs])


def test_no_texts_of_other_nodes() -> None:
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert pages == {f"{node_id}{end}" for node_id in NODES for end in (".md", "/zh.md")}
    for language in LANGUAGES:
        assert locale(language).keys() == NODES.keys()


@each_language
@each_node
def test_a_locale_names_everything_in_the_schemas_order(node: Node, language: str) -> None:
    entry = locale(language)[node.node_id]
    names = []
    for slot in node.inputs:
        names += [slot.name, SEED_WIDGET] if slot.seeds else [slot.name]
    assert list(entry) == ["display_name", "description", "inputs", "outputs"]
    assert list(entry["inputs"]) == names
    assert list(entry["outputs"]) == [str(number) for number in range(len(node.outputs))]

    for name, slot_texts in [*entry["inputs"].items(), *entry["outputs"].items()]:
        assert list(slot_texts) == (["name"] if name == SEED_WIDGET else ["name", "tooltip"])
    assert all(text.strip() == text != "" for text in strings(entry))


@each_node
def test_the_english_locale_equals_the_schema(node: Node) -> None:
    entry = locale("en")[node.node_id]
    assert (entry["display_name"], entry["description"]) == (node.display_name, node.description)
    for slot in node.inputs:
        assert entry["inputs"][slot.name]["name"] == slot.name
        assert re.fullmatch(slot.tooltip, entry["inputs"][slot.name]["tooltip"])
    for slot, texts in zip(node.outputs, entry["outputs"].values(), strict=True):
        assert texts["name"] == slot.name
        assert re.fullmatch(slot.tooltip, texts["tooltip"])


@each_language
def test_a_locale_holds_nothing_that_the_page_would_interpret(language: str) -> None:
    # The page's translation takes braces for values, bars for plurals and @ for links, and dots part keys.
    assert not [text for text in strings(locale(language)) if set(text) & set("{}|@")]
    assert not [key for key in keys(locale(language)) if "." in key]


@each_language
@each_node
def test_a_page_lists_the_inputs_and_outputs_and_no_others(node: Node, language: str) -> None:
    entry = locale(language)[node.node_id]
    names = {
        "inputs": [(slot.name, entry["inputs"][slot.name]["name"]) for slot in node.inputs],
        "outputs": [
            (slot.name, texts["name"])
            for slot, texts in zip(node.outputs, entry["outputs"].values(), strict=True)
        ],
    }
    for kind, pairs in names.items():
        # A page in another language adds the name that the node shows.
        cells = [f"`{name}`" if shown == name else f"`{name}` {shown}" for name, shown in pairs]
        assert listed_names(section(node, language, kind)) == cells

    assert page(node, language).startswith(f"# {entry['display_name']}\n")


@each_language
@each_node
def test_a_page_quotes_refusals_that_the_code_makes(node: Node, language: str) -> None:
    quotes = [quote for bullet in refusals(node, language) for quote in bullet]
    assert quotes
    assert [quote for quote in quotes if quote not in messages()] == []


@each_node
def test_the_pages_of_a_node_tell_of_the_same_refusals(node: Node) -> None:
    assert refusals(node, "zh") == refusals(node, "en")
