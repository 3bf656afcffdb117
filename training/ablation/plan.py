"""The plan of an ablation: a TOML file with variants and the settings they share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from siamese_core.errors import UserError
from siamese_core.files import portable_stem

_STAGES = ("train", "generate", "evaluate", "segment")
_KEYS = {"title", "note", "variant", *_STAGES}
_VARIANT_KEYS = {"name", "train", "paint"}
# Flags that training.ablate sets itself.
_OWN_FLAGS = {
    "train": {"pairs", "base", "output", "resume"},
    "generate": {"checkpoint", "masks", "output", "overwrite"},
    "evaluate": {"real", "synthetic", "output", "segmenter_train", "real_test"},
    "segment": {
        "real",
        "synthetic",
        "times",
        "synthetic_only",
        "train",
        "test",
        "output",
        "resume",
        "config",
    },
}


class AblationError(UserError):
    """A plan cannot be run; the message names the file, the key and what it should be."""


@dataclass(frozen=True)
class Variant:
    """One generative model, with its settings for training.train in addition to the shared ones.

    Without ``paint`` it is only trained, to measure its parameter update.
    """

    name: str
    train: Mapping[str, Any]
    paint: bool

    @property
    def folder(self) -> str:
        """Name of the variant's folder."""
        return portable_stem(self.name)


@dataclass(frozen=True)
class AblationPlan:
    """Variants, and the shared settings of each stage's command."""

    title: str
    note: str
    variants: tuple[Variant, ...]
    stages: Mapping[str, Mapping[str, Any]]


def plan_of_table(table: Mapping[str, Any], path: Path) -> AblationPlan:
    """The plan in a TOML ``table`` read from ``path``; training.ablate documents the keys.

    Raises AblationError, naming the invalid key.
    """
    _refuse_unknown(table, _KEYS, str(path))
    stages = {stage: _settings(table.get(stage, {}), stage, str(path)) for stage in _STAGES}
    entries = table.get("variant", [])
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise AblationError(f"{path}: names no variant; write [[variant]] with a name for each")
    variants = tuple(_variant(entry, path) for entry in entries)
    folders = [variant.folder.casefold() for variant in variants]
    for position, variant in enumerate(variants):
        if variant.folder.casefold() in folders[:position]:
            raise AblationError(f"{path}: two variants are called {variant.name!r}; name them apart")
    return AblationPlan(str(table.get("title", "Ablation")), str(table.get("note", "")), variants, stages)


def flags(settings: Mapping[str, Any]) -> list[str]:
    """``settings`` as command-line words: ``{"hint_block": "sparse"}`` -> ``["--hint-block", "sparse"]``."""
    words: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, list) else [value]
            words += [f"--{flag}", *map(str, values)]
    return words


def segmentation_sets(
    title: str, real: Path, generated: Mapping[str, Sequence[Path]], tests: Mapping[str, str]
) -> str:
    """The TOML file for training.segment that compares ``real`` with ``real`` + each variant's folders."""
    text = partial(json.dumps, ensure_ascii=False)  # JSON strings and lists of strings are valid TOML
    own = text([str(real.absolute())])
    lines = [f"title = {text(title)}", "", "[test]"]
    lines += [f"{text(name)} = {text(str(Path(folder).absolute()))}" for name, folder in tests.items()]
    lines += ["", "[[variant]]", 'name = "real"', f"real = {own}"]
    for name, folders in generated.items():
        lines += ["", "[[variant]]", f"name = {text(f'real + {name}')}", f"real = {own}"]
        lines += [f"synthetic = {text([str(folder.absolute()) for folder in folders])}"]
    return "\n".join(lines) + "\n"


def _variant(entry: Mapping[str, Any], path: Path) -> Variant:
    where = f"{path}, variant {entry.get('name', '')!r}"
    _refuse_unknown(entry, _VARIANT_KEYS, where)
    name, paint = entry.get("name"), entry.get("paint", True)
    if not isinstance(name, str) or not name:
        raise AblationError(f"{where}: needs a name, a text")
    if not isinstance(paint, bool):
        raise AblationError(f"{where}: paint = {paint!r} must be true or false")
    return Variant(name, _settings(entry.get("train", {}), "train", where), paint)


def _settings(value: Any, stage: str, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise AblationError(f"{where}: {stage} = {value!r} must be a table of settings of training.{stage}")
    if own := sorted(set(value) & _OWN_FLAGS[stage]):
        raise AblationError(f"{where}: {stage}.{own[0]} is set by training.ablate itself; leave it out")
    return value


def _refuse_unknown(entry: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(set(entry) - known):
        raise AblationError(f"{where}: unknown key {unknown[0]!r}; known ones: {', '.join(sorted(known))}")
