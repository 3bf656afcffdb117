"""Does synthetic data help? Train segmentation networks with and without it and compare them on test sets.

    python -m training.segment --real DIR --synthetic DIR --times 1 2 4 --test DIR --network unet --output DIR
    python -m training.segment --train real=DIR both=DIR,DIR --test A=DIR B=DIR --network unet --output DIR
    python -m training.segment --config training/recipes/tables/table2.toml --data ROOT --output DIR

--real and --synthetic define the variants real, real+1x, real+2x ... (the number of synthetic pairs per real
pair, taken evenly from the folder); --synthetic-only adds one without real pairs; each --train defines a
variant of its own. The first variant is the baseline. --real-share 0.5 makes half of every mixed batch real,
however many synthetic pairs there are; --then-real 200 uses only real pairs in the last 200 steps, without
adding steps. All variants are trained for the same number of steps with the same batch size and augmentation,
and for each seed from the same initial weights. They are scored on every test image at its mask's own size:
Dice and IoU per image, their means per test set and over all test images, mean and deviation over seeds, and
the difference from the baseline with an interval and a p value.

A --config file can hold any of the settings, networks = [...], and either [test] (folders by name) and
[[variant]]s (name, real = [...], synthetic = [...], times or count, and optionally real_share and then_real),
or [[experiment]]s made of those; relative folders refer to --data. training/recipes/tables/ has one file for
each table of the paper.

Output: OUTPUT/results.json, scores.csv (every image of every run), segmentation.html (with a curve if
variants add more and more of the same synthetic pairs, as in the paper's Fig. 7), segmentation.md, and
runs/ with the scores and the worst and best cases of every run. Finished runs are kept: after an
interruption, the same command with --resume does what is missing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from siamese_core.files import write_text_atomic
from siamese_core.settings import THREADS, option

from .command_line.notes import note
from .command_line.options import (
    OptionError,
    add_flags,
    build,
    command_parser,
    field_names,
    plain,
    read_toml,
    refuse_unknown,
    require_empty,
    run_command,
)
from .segmentation.benchmark import Benchmark, RunSettings
from .segmentation.mixing import Mixing
from .segmentation.networks.registry import NETWORKS, weights_by_network
from .segmentation.plan import (
    PLAN_KEYS,
    Experiment,
    Plan,
    check_plan,
    experiments_of_table,
    mixed,
    named_folders,
    under,
    variants_of_mixture,
    variants_of_sets,
)
from .segmentation.summary import as_html, as_markdown, per_image_csv, results


@dataclass(frozen=True)
class SegmentSettings:
    """Folders of data and results; runs have settings of their own."""

    output: Path = option(Path(), "folder for the results, new or empty")
    data: Path = option(Path(), "folder that relative paths in --config refer to")
    threads: int = option(0, "CPU threads; 0 uses torch's default", THREADS)


def main(arguments: Sequence[str] | None = None) -> int:
    args, settings, mixing, runs, table = parse(arguments)
    _check_settings(settings)
    plan = _plan(args, settings, table)
    if mixing != Mixing():
        if not any(variant.is_mixed for one in plan.experiments for variant in one.variants):
            raise OptionError(
                "--real-share and --then-real are for variants with real and synthetic pairs, and there are "
                "none: name them with --real and --synthetic, or in a --config file"
            )
        plan = replace(plan, experiments=tuple(mixed(one, mixing) for one in plan.experiments))
    check_plan(plan, list(NETWORKS))
    networks = list(dict.fromkeys(name for one in plan.experiments for name in one.networks))
    files = weights_by_network(runs.weights or (), networks)
    for name in networks:
        if runs.pretrained and name not in files and not NETWORKS[name].has_backbone:
            note(f"{name} has no backbone that could be pretrained: it starts from random weights")
    if not args.resume:
        require_empty(settings.output, "give another --output, or --resume to do what is missing there")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = Accelerator().device
    benchmark = Benchmark(plan, runs, settings.output)
    print(f"{benchmark.waiting} of {len(benchmark.jobs)} runs to do on {device}")
    settings.output.mkdir(parents=True, exist_ok=True)
    outcomes = list(benchmark.run(device))

    groups = results(outcomes, benchmark.sets)
    shown = {
        name: value
        for name, value in {**plain(settings), **plain(mixing), **plain(runs)}.items()
        if value is not None
    }
    about = {"title": plan.title, "note": plan.note, "settings": shown, "device": str(device)}
    output = settings.output
    markdown = as_markdown(groups)
    write_text_atomic(output / "results.json", json.dumps({**about, "results": groups}, indent=1) + "\n")
    write_text_atomic(output / "scores.csv", per_image_csv(outcomes))
    write_text_atomic(output / "segmentation.md", f"# {plan.title}\n\n{markdown}")
    write_text_atomic(output / "segmentation.html", as_html(plan.title, plan.note, groups, outcomes, shown))
    print(f"\n{markdown}\nsee {output / 'segmentation.html'}")
    return 0


def _plan(args: argparse.Namespace, settings: SegmentSettings, table: Mapping[str, Any]) -> Plan:
    """The plan from flags, or from the TOML table, whose networks are replaced by --network."""
    title = str(table.get("title", "Segmentation"))
    note = str(table.get("note", ""))
    by_flags = bool(args.train or args.real or args.synthetic or args.test)
    by_table = bool({"experiment", "variant", "test"} & set(table))
    if by_flags and by_table:
        raise OptionError(
            f"{args.config} names the sets; leave out --train, --real, --synthetic and --test, or that file"
        )
    if not args.real and (args.times or args.synthetic_only):
        raise OptionError("--times and --synthetic-only go with --real and --synthetic")
    if by_table:
        found = experiments_of_table(table, args.config, args.network)
        return Plan(title, note, tuple(under(settings.data, one) for one in found))
    if args.train and (args.real or args.synthetic):
        raise OptionError("--train excludes --real and --synthetic: give one or the other")
    if args.train:
        variants = variants_of_sets(args.train)
    elif args.real:
        variants = variants_of_mixture(args.real, args.synthetic or (), args.times or (), args.synthetic_only)
    else:
        raise OptionError("--train or --real is needed, or a --config file with variants")
    tests = {name: Path(folder) for name, folder in named_folders(args.test or ()).items()}
    networks = tuple(args.network or table.get("networks", ()))
    return Plan(title, note, (Experiment("data", networks, tests, variants),))


def _check_settings(settings: SegmentSettings) -> None:
    if settings.output == Path():
        raise OptionError("--output is needed")


def parse(
    arguments: Sequence[str] | None,
) -> tuple[argparse.Namespace, SegmentSettings, Mixing, RunSettings, dict[str, Any]]:
    parser = command_parser("segment", __doc__)
    sets = parser.add_argument_group("data and networks to compare")
    sets.add_argument("--config", type=Path, help="TOML file of settings, networks and sets")
    sets.add_argument(
        "--network",
        nargs="+",
        action="extend",
        metavar="NAME",
        help=f"networks to train: {', '.join(NETWORKS)}",
    )
    sets.add_argument("--test", nargs="+", action="extend", metavar="[NAME=]DIR", help="test sets")
    sets.add_argument(
        "--real", nargs="+", action="extend", metavar="DIR", help="real pairs; alone, they are the baseline"
    )
    sets.add_argument(
        "--synthetic",
        nargs="+",
        action="extend",
        metavar="DIR",
        help="synthetic pairs to add to the real ones",
    )
    sets.add_argument(
        "--times",
        nargs="+",
        action="extend",
        type=float,
        metavar="X",
        help="synthetic pairs per real pair; one variant for each number",
    )
    sets.add_argument(
        "--synthetic-only", action="store_true", help="add a variant with synthetic pairs alone"
    )
    sets.add_argument(
        "--train", nargs="+", action="extend", metavar="[NAME=]DIR|NAME=DIR,DIR...", help="training sets"
    )
    parser.add_argument("--resume", action="store_true", help="resume in --output, keeping finished runs")
    add_flags(parser, SegmentSettings)
    add_flags(parser.add_argument_group("mixing of real and synthetic pairs"), Mixing)
    add_flags(parser.add_argument_group("settings of each run"), RunSettings)
    args = parser.parse_args(arguments)
    table = read_toml(args.config)
    groups = (SegmentSettings, Mixing, RunSettings)
    refuse_unknown(table, PLAN_KEYS.union(*map(field_names, groups)), args.config)
    return (
        args,
        build(SegmentSettings, args, table),
        build(Mixing, args, table),
        build(RunSettings, args, table),
        table,
    )


if __name__ == "__main__":
    run_command(main)
