"""What does each part of the method add? Train variants of the generative model and compare their images.

    python -m training.ablate PLAN.toml --pairs DIR --test [NAME=]DIR --base PATH --output DIR

PLAN.toml names the variants (training/recipes/ablations/ has the paper's Table 5 and Table 6). Each variant
is trained on --pairs with the same budget, generates an image for every training mask, and is measured by
training.evaluate. Then segmentation networks trained on real pairs alone, and on real + synthetic pairs of
each variant, are compared on the --test sets. The tables [train], [generate], [evaluate] and [segment] of the
file hold settings of those commands for all variants. Every [[variant]] has a name, train = {its own
settings}, and paint = false if only its parameter update is needed.

Output: OUTPUT/ablation.html, ablation.json and ablation.md (one table of metrics and segmentation scores, and
the size and direction of the parameter updates), variants.png (the same masks under each variant),
segmentation/ (with its sets in segmentation.toml) and, for each variant, a folder with training/, pairs/ and
evaluation/. After an interruption, the same command with --resume does what is missing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_core.contact_sheet import grid, outlined
from siamese_core.diffusers_backend.base_model import load_base, local_base
from siamese_core.diffusers_backend.training_start import base_digests
from siamese_core.files import write_bytes_atomic, write_text_atomic
from siamese_core.masks.resizing import resize_image
from siamese_core.pairs.image_files import read_image
from siamese_core.pairs.pair_files import find_pairs, load_pair, pairs_fingerprint, prompts_digest
from siamese_core.pairs.pair_writer import png_bytes
from siamese_core.resume_check import BASE_DIGESTS_KEY, PAIR_PROMPTS_KEY, TEST_ORDER_KEY, check_record
from siamese_core.weights.key_layouts import to_ldm
from siamese_core.weights.model_file import load_model

from . import evaluate, generate, segment, train
from .ablation.plan import AblationPlan, Variant, flags, plan_of_table, segmentation_sets
from .ablation.summary import Summary, as_html, as_json, as_markdown
from .ablation.updates import Comparison, compare_updates, starting_weights, update
from .command_line.options import OptionError, command_parser, read_toml, require_empty, run_command
from .command_line.stages import generate_once, resume_words, run_stage, write_once
from .segmentation.networks.registry import NETWORKS
from .segmentation.plan import evenly_chosen, named_folders

_SHOWN_MASKS = 6


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parse(arguments)
    plan = plan_of_table(read_toml(args.plan, ("ablations",)), args.plan)
    tests = named_folders(args.test)
    output: Path = args.output
    _check(args, plan)
    base = local_base(args.base)  # download a model from the hub once, for all variants
    _prepare(args, base, plan, tests)
    generated = [variant for variant in plan.variants if variant.paint]
    for variant in plan.variants:
        _train(args, base, plan, variant)
    for variant in generated:
        _generate(args, plan, variant)
        _evaluate(args, plan, variant, tests)
    results = _segment(args, plan, generated, tests) if generated and tests else {}
    sheet = _sheet(args.pairs, [output / variant.folder / "pairs" for variant in generated])
    summary = Summary(
        title=plan.title,
        note=plan.note,
        variants=[variant.name for variant in generated],
        evaluations={
            variant.name: _read_json(output / variant.folder / "evaluation" / "evaluation.json")
            for variant in generated
        },
        segmentation=results.get("results", []),
        trained=[variant.name for variant in plan.variants],
        updates=_updates(base, output, plan.variants),
        sheet=sheet,
        settings={stage: " ".join(flags(settings)) for stage, settings in plan.stages.items()}
        | {variant.name: " ".join(flags(variant.train)) for variant in plan.variants},
    )
    if sheet is not None:
        write_bytes_atomic(output / "variants.png", png_bytes(sheet))
    write_text_atomic(output / "ablation.json", json.dumps(as_json(summary), indent=1) + "\n")
    write_text_atomic(output / "ablation.md", as_markdown(summary))
    write_text_atomic(output / "ablation.html", as_html(summary))
    print(f"\n{as_markdown(summary)}\nsee {output / 'ablation.html'}")
    return 0


def _check(args: argparse.Namespace, plan: AblationPlan) -> None:
    """Check the settings of all stages now, so that none is refused hours later."""
    for variant in plan.variants:
        train.parse(flags({**plan.stages["train"], **variant.train}))
    generate.parse(flags(plan.stages["generate"]))
    evaluate.parse(flags(plan.stages["evaluate"]))
    networks, settings = _networks(plan)
    segment.parse(flags(settings))
    if unknown := sorted(set(networks) - set(NETWORKS)):
        raise OptionError(
            f"{args.plan}: network {unknown[0]!r} is not known; take some of {', '.join(NETWORKS)}"
        )


def _networks(plan: AblationPlan) -> tuple[list[str], dict[str, Any]]:
    """The segmentation networks to compare with, and the other settings of the segmentation stage."""
    settings = dict(plan.stages["segment"])
    return settings.pop("networks", ["small-unet"]), settings


def _prepare(args: argparse.Namespace, base: Path, plan: AblationPlan, tests: Mapping[str, str]) -> None:
    """Create the output folder, or check that it belongs to the same ablation on the same data."""
    pairs = find_pairs(args.pairs, default_prompt="")
    record = {
        "variants": {
            variant.name: {"train": variant.train, "paint": variant.paint} for variant in plan.variants
        },
        **plan.stages,
        "pairs": pairs_fingerprint(pairs),
        "tests": {
            name: pairs_fingerprint(find_pairs(Path(folder), default_prompt=""))
            for name, folder in tests.items()
        },
        "base": str(args.base),
        BASE_DIGESTS_KEY: base_digests(base),
        PAIR_PROMPTS_KEY: prompts_digest(pairs),
        TEST_ORDER_KEY: list(tests),
    }
    file: Path = args.output / "plan.json"
    if not args.resume:
        require_empty(args.output, "give another --output, or --resume to continue there")
    elif args.output.exists() and any(args.output.iterdir()):
        if not file.exists():
            raise OptionError(f"{args.output}: holds no ablation (no plan.json); give another --output")
        check_record(file, _read_json(file), record, what="ablation")
        return
    args.output.mkdir(parents=True, exist_ok=True)
    write_text_atomic(file, json.dumps(record, indent=1) + "\n")


def _train(args: argparse.Namespace, base: Path, plan: AblationPlan, variant: Variant) -> None:
    folder = args.output / variant.folder / "training"
    if _model(folder).exists():
        return
    settings = {"export_precision": "fp32", **plan.stages["train"], **variant.train}
    paths = {"pairs": args.pairs, "base": base, "output": folder}
    words = [*flags(paths), *flags(settings), *resume_words(folder)]
    run_stage(train.main, f"{variant.name}: training", words)


def _generate(args: argparse.Namespace, plan: AblationPlan, variant: Variant) -> None:
    folder = args.output / variant.folder
    paths = {"checkpoint": _model(folder / "training"), "masks": args.pairs}
    words = [*flags(paths), *flags(plan.stages["generate"])]
    generate_once(generate.main, f"{variant.name}: generating", words, folder / "pairs")


def _evaluate(
    args: argparse.Namespace, plan: AblationPlan, variant: Variant, tests: Mapping[str, str]
) -> None:
    pairs = args.output / variant.folder / "pairs"

    def measure(folder: Path) -> None:
        paths = {"real": args.pairs, "synthetic": pairs, "output": folder, "segmenter_train": args.pairs}
        settings = dict(plan.stages["evaluate"])
        if tests:
            settings["real_test"] = next(iter(tests.values()))
        run_stage(evaluate.main, f"{variant.name}: metrics", [*flags(paths), *flags(settings)])

    write_once(args.output / variant.folder / "evaluation", measure)


def _segment(
    args: argparse.Namespace, plan: AblationPlan, variants: Sequence[Variant], tests: Mapping[str, str]
) -> dict[str, Any]:
    """Compare segmentation on real pairs alone with real pairs plus each variant's; returns the results."""
    networks, settings = _networks(plan)
    folder, sets = args.output / "segmentation", args.output / "segmentation.toml"
    generated = {variant.name: [args.output / variant.folder / "pairs"] for variant in variants}
    write_text_atomic(sets, segmentation_sets(plan.title, args.pairs, generated, tests))
    words = ["--config", str(sets), "--network", *networks, "--output", str(folder), *flags(settings)]
    run_stage(segment.main, "segmentation", [*words, "--resume"])
    return _read_json(folder / "results.json")


def _model(training: Path) -> Path:
    return training / "model.safetensors"


def _updates(base: Path, output: Path, variants: Sequence[Variant]) -> list[Comparison]:
    loaded = load_base(base)
    start = starting_weights(to_ldm("unet", loaded.unet.state_dict(), loaded.architecture))
    found = {}
    for variant in variants:
        parts = load_model(_model(output / variant.folder / "training")).parts
        found[variant.name] = update(parts["control"], parts["unet"], start)
    return compare_updates(found, start)


def _sheet(real: Path, folders: Sequence[Path]) -> NDArray[np.uint8] | None:
    """A sheet (H, W, 3) with a row for each of a few masks: mask, real image, each variant's image."""
    if not folders:
        return None
    original_of, *generated_of = (
        {pair.stem: pair for pair in find_pairs(one, default_prompt="")} for one in (real, *folders)
    )
    common = [stem for stem in generated_of[0] if stem in original_of]
    count = min(_SHOWN_MASKS, len(common))
    rows = []
    for stem in (common[place] for place in evenly_chosen(len(common), count)):
        generated = [load_pair(pairs[stem], size=None) for pairs in generated_of]
        mask = generated[0].mask
        original = resize_image(read_image(original_of[stem].image), mask.shape)
        rows.append(
            [mask.astype(np.uint8) * 255, original, *(outlined(one.image, mask) for one in generated)]
        )
    return grid(rows) if rows else None


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8")))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser("ablate", __doc__)
    parser.add_argument("plan", type=Path, help="TOML file of variants")
    parser.add_argument("--pairs", type=Path, required=True, help="real training pairs")
    parser.add_argument(
        "--test",
        nargs="+",
        action="extend",
        default=[],
        metavar="[NAME=]DIR",
        help="real pairs that no variant is trained on",
    )
    parser.add_argument(
        "--base",
        type=Path,
        required=True,
        help="base model of all variants: single file, diffusers folder or hub name",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the results, new or empty")
    parser.add_argument("--resume", action="store_true", help="resume the ablation in --output")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_command(main)
