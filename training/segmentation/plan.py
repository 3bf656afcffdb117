"""Plans of comparisons: test sets and variants of the training set, from flags or from a TOML table."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from siamese_core.errors import UserError
from siamese_core.files import portable_stem
from siamese_core.settings import check_range

from .mixing import Mixing
from .scores import ALL_IMAGES

PLAN_KEYS = {"title", "note", "networks", "experiment", "variant", "test"}

_EXPERIMENT_KEYS = {"name", "networks", "test", "variant"}
_MIXING_KEYS = tuple(item.name for item in fields(Mixing))
_VARIANT_KEYS = {"name", "real", "synthetic", "times", "count", "made_by", *_MIXING_KEYS}

_ROOT = re.compile(r"\bROOT\b/?([^\s'\"]*)")
_ALIKE = Mixing()


class PlanError(UserError):
    """A comparison is invalid; the message names the variant or key and the fix."""


@dataclass(frozen=True)
class Variant:
    """One training set: all pairs of the ``real`` folders, and some of the ``synthetic`` folders.

    The number of synthetic pairs is ``times`` the number of real ones, or ``count``, or all. ``made_by`` is
    the shell command that generates the synthetic folders; ``mixing`` is how the two kinds share the steps.
    """

    name: str
    real: tuple[Path, ...] = ()
    synthetic: tuple[Path, ...] = ()
    times: float | None = None
    count: int | None = None
    made_by: str = ""
    mixing: Mixing = _ALIKE

    @property
    def is_mixed(self) -> bool:
        """Whether it has both real and synthetic pairs."""
        return bool(self.real and self.synthetic)


@dataclass(frozen=True)
class Experiment:
    """Variants to compare with each network on the same test sets (folders by name).

    The first variant is the baseline.
    """

    name: str
    networks: tuple[str, ...]
    tests: Mapping[str, Path]
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Plan:
    """All experiments of one command."""

    title: str
    note: str
    experiments: tuple[Experiment, ...]


def synthetic_count(variant: Variant, real: int, available: int) -> int:
    """The number of synthetic pairs, of those ``available``, that ``variant`` uses with ``real`` real ones.

    Raises PlanError when there are too few.
    """
    if variant.times is not None:
        wanted = math.floor(variant.times * real + 0.5)
        asked = f"{variant.times:g} x {real} real pairs"
    else:
        wanted = available if variant.count is None else variant.count
        asked = f"count = {wanted}"
    if wanted > available:
        most = math.floor(100 * available / real) / 100 if variant.times is not None else available
        raise PlanError(
            f"variant {variant.name!r}: {asked} needs {wanted} synthetic pairs, but there are {available}; "
            f"generate so many (training.generate --total {wanted}), or ask for fewer ({most:g} at most)"
        )
    return wanted


def evenly_chosen(available: int, wanted: int) -> list[int]:
    """``wanted`` evenly spaced indices of 0..``available`` - 1.

    If each mask has 4 consecutive images, a quarter of them is one image of every mask.
    """
    return [place * available // wanted for place in range(wanted)]


def named_folders(entries: Sequence[str]) -> dict[str, str]:
    """Parse ``NAME=DIR`` or ``DIR`` (named after its last part) to folders by name. Raises PlanError."""
    found: dict[str, str] = {}
    for entry in entries:
        name, sign, folder = entry.partition("=")
        if not sign or Path(entry).exists():
            name, folder = Path(entry).absolute().name, entry
        if not name or not folder:
            raise PlanError(f"{entry!r}: write NAME=DIR, or DIR alone")
        if name in found:
            raise PlanError(f"two folders are called {name!r}; name them apart: NAME=DIR")
        found[name] = folder
    return found


def variants_of_sets(train: Sequence[str]) -> tuple[Variant, ...]:
    """One variant for each ``NAME=DIR,DIR...`` or ``DIR``, in which all pairs count as real.

    Raises PlanError for several folders without a name.
    """
    for entry in train:
        if "=" not in entry and "," in entry and not Path(entry).exists():
            last = Path(entry).name
            raise PlanError(
                f"{entry!r}: several folders need a name: NAME={entry} ({last}={entry} continues runs that "
                "were begun without one)"
            )
    return tuple(
        Variant(name, real=tuple(Path(part) for part in folders.split(",")))
        for name, folders in named_folders(train).items()
    )


def variants_of_mixture(
    real: Sequence[str], synthetic: Sequence[str], times: Sequence[float], synthetic_only: bool
) -> tuple[Variant, ...]:
    """The variants ``real``, ``real+1x`` ... for ``times`` (else ``real+synthetic``), and ``synthetic``."""
    real_folders, folders = tuple(map(Path, real)), tuple(map(Path, synthetic))
    variants = [Variant("real", real_folders)]
    if folders:
        mixed = [Variant(f"real+{value:g}x", real_folders, folders, times=value) for value in times]
        variants += mixed or [Variant("real+synthetic", real_folders, folders)]
        variants += [Variant("synthetic", synthetic=folders)] if synthetic_only else []
    elif times or synthetic_only:
        raise PlanError("--times and --synthetic-only need --synthetic DIR")
    return tuple(variants)


def experiments_of_table(
    table: Mapping[str, Any], path: Path, networks: Sequence[str] | None = None
) -> tuple[Experiment, ...]:
    """The experiments of a TOML table read from ``path``; training.segment documents the keys.

    ``[test]`` and ``[[variant]]`` may be inside an ``[[experiment]]`` or, for a single one, at the top level.
    An experiment without ``networks`` uses the table's; the argument ``networks`` overrides all. Folders are
    not resolved. Raises PlanError, naming the invalid key.
    """
    entries = table.get("experiment")
    if entries is None:
        entries = [{"name": "data", **{key: table[key] for key in ("test", "variant") if key in table}}]
    elif "test" in table or "variant" in table:
        raise PlanError(f"{path}: put test and variant into the [[experiment]]s, or leave those out")
    common = _names(table, "networks", str(path))
    return tuple(
        _experiment(entry, path, networks, common) for entry in _list_of_tables(entries, "experiment", path)
    )


def under(root: Path, experiment: Experiment) -> Experiment:
    """``experiment`` with relative folders resolved below ``root``, which replaces ROOT in its commands."""

    def placed(folders: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(root / folder for folder in folders)

    return replace(
        experiment,
        tests={name: root / folder for name, folder in experiment.tests.items()},
        variants=tuple(
            replace(
                variant,
                real=placed(variant.real),
                synthetic=placed(variant.synthetic),
                made_by=_for_shell(variant.made_by, root),
            )
            for variant in experiment.variants
        ),
    )


def _for_shell(command: str, root: Path) -> str:
    """``command`` with ROOT replaced by ``root``; paths are quoted for a shell where needed."""
    return _ROOT.sub(lambda found: shlex.quote(str(root / found[1])), command)


def mixed(experiment: Experiment, mixing: Mixing) -> Experiment:
    """``experiment`` with ``mixing`` for variants with both kinds of pairs and no mixing of their own."""

    variants = (
        replace(variant, mixing=mixing) if variant.is_mixed and variant.mixing == _ALIKE else variant
        for variant in experiment.variants
    )
    return replace(experiment, variants=tuple(variants))


def check_plan(plan: Plan, known_networks: Sequence[str]) -> None:
    """Raise PlanError for missing folders and other errors that can be found without reading files."""
    check_names([experiment.name for experiment in plan.experiments], "experiments")
    for experiment in plan.experiments:
        for network in experiment.networks:
            if network not in known_networks:
                raise PlanError(f"network {network!r} is not known; take one of {', '.join(known_networks)}")
        if not experiment.networks:
            raise PlanError("no network is named; give --network")
        check_names(experiment.networks, "networks")
        if not experiment.tests:
            raise PlanError("no test set is named; give --test, or a [test] table in the TOML file")
        if not experiment.variants:
            raise PlanError("no training set is named; give --train or --real")
        check_names([variant.name for variant in experiment.variants], "variants")
        if ALL_IMAGES in experiment.tests:
            raise PlanError(f"a test set is called {ALL_IMAGES!r}, as all sets together are; rename it")
        for folder in experiment.tests.values():
            _require_folder(folder, "")
        for variant in experiment.variants:
            _check_variant(variant)


def _check_variant(variant: Variant) -> None:
    where = f"variant {variant.name!r}"
    if not variant.real and not variant.synthetic:
        raise PlanError(f"{where}: has neither real nor synthetic folders")
    if variant.times is not None and variant.count is not None:
        raise PlanError(f"{where}: times and count exclude each other")
    if variant.times is not None and not (
        variant.real and variant.synthetic and 0 < variant.times < math.inf
    ):
        raise PlanError(f"{where}: times must be above 0 and needs real and synthetic folders")
    if variant.count is not None and not (variant.synthetic and variant.count > 0):
        raise PlanError(f"{where}: count must be above 0 and needs synthetic folders")
    if variant.mixing != _ALIKE and not (variant.real and variant.synthetic):
        raise PlanError(f"{where}: real_share and then_real need both real and synthetic folders")
    for folder in variant.real:
        _require_folder(folder, "")
    for folder in variant.synthetic:
        _require_folder(folder, variant.made_by)


def _require_folder(folder: Path, made_by: str) -> None:
    if not folder.exists():
        advice = f"; it is made by: {made_by}" if made_by else "; check the path"
        raise PlanError(f"{folder}: does not exist{advice}")


def check_names(names: Sequence[str], kind: str) -> None:
    """Raise PlanError for names that are equal or give the same file name; messages call them ``kind``."""
    seen: dict[str, str] = {}
    for name in names:
        stem = portable_stem(name).casefold()
        if stem in seen:
            raise PlanError(f"two {kind} are called {seen[stem]!r} and {name!r}; name them apart")
        seen[stem] = name


def _experiment(
    entry: Mapping[str, Any], path: Path, networks: Sequence[str] | None, common: Sequence[str]
) -> Experiment:
    where = f"{path}: experiment {entry.get('name', '')!r}"
    _refuse_unknown(entry, _EXPERIMENT_KEYS, where)
    tests = entry.get("test", {})
    if not isinstance(tests, dict) or not all(isinstance(folder, str) for folder in tests.values()):
        raise PlanError(f"{where}: test must be a table of folders by name")
    variants = _list_of_tables(entry.get("variant", []), "variant", path)
    return Experiment(
        name=_typed(entry, "name", str, where),
        networks=tuple(networks or _names(entry, "networks", where) or common),
        tests={name: Path(folder) for name, folder in tests.items()},
        variants=tuple(_variant(variant, where) for variant in variants),
    )


def _variant(entry: Mapping[str, Any], where: str) -> Variant:
    where = f"{where}, variant {entry.get('name', '')!r}"
    _refuse_unknown(entry, _VARIANT_KEYS, where)
    times = _typed(entry, "times", (int, float), where, None)
    count = _typed(entry, "count", int, where, None)
    return Variant(
        name=_typed(entry, "name", str, where),
        real=tuple(map(Path, _names(entry, "real", where))),
        synthetic=tuple(map(Path, _names(entry, "synthetic", where))),
        times=None if times is None else float(times),
        count=count,
        made_by=_typed(entry, "made_by", str, where, ""),
        mixing=_mixing(entry, where),
    )


def _mixing(entry: Mapping[str, Any], where: str) -> Mixing:
    share = _typed(entry, "real_share", (int, float), where, None)
    found = Mixing(
        real_share=None if share is None else float(share),
        then_real=_typed(entry, "then_real", int, where, 0),
    )
    for item in fields(found):
        check_range(f"{where}: {item.name}", getattr(found, item.name), item.metadata["range"])
    return found


def _names(entry: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    names = _typed(entry, key, list, where, [])
    if not all(isinstance(name, str) for name in names):
        raise PlanError(f"{where}: {key} must be a list of texts")
    return tuple(names)


_NEEDED = object()


def _typed(entry: Mapping[str, Any], key: str, kind: Any, where: str, default: Any = _NEEDED) -> Any:
    value = entry.get(key, default)
    if value is _NEEDED:
        raise PlanError(f"{where}: lacks {key}")
    if value is not default and (not isinstance(value, kind) or isinstance(value, bool)):
        raise PlanError(f"{where}: {key} = {value!r} does not fit")
    return value


def _list_of_tables(value: Any, key: str, path: Path) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise PlanError(f"{path}: write {key} as [[{key}]]")
    return value


def _refuse_unknown(entry: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(set(entry) - known):
        raise PlanError(f"{where}: unknown key {unknown[0]!r}; known ones: {', '.join(sorted(known))}")
