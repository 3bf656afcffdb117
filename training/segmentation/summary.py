"""The outcomes of a benchmark as JSON, CSV, Markdown and HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from siamese_core.settings import recorded

from ..reports.html_page import bullets, captioned, key_values, page, picture, section, table
from .amount_curve import amount_curve, amount_series
from .benchmark import Outcome
from .mixing import Mixing
from .scores import ALL_IMAGES, Floats, compare, over_all_sets, spread
from .training_sets import Sets

MEASURES = {"dice": "mDice", "iou": "mIoU"}

_CSV_COLUMNS = ("experiment", "network", "variant", "seed", "test", "stem", "dice", "iou")

READING = (
    "Values are means over seeds ± the standard deviation between them (sample, n - 1).",
    "All images: the mean over the images of all test sets, each of the same weight.",
    "Difference: variant minus baseline (the first row) over all test images, by seed and image; "
    "in brackets its 95 % interval, and the two-sided p of no difference. Both hold for other training runs "
    "and other images alike: runs and images are crossed samples (analysis of variance, Student's t with "
    "Satterthwaite's degrees of freedom, as in multi-reader studies).",
    "One seed cannot tell what another run would give: the interval, marked 'this run only', is then of "
    "other images under the same networks, and there is no p.",
    "All variants of a table are trained for the same number of steps, with the same batch size and "
    "augmentation, and from the same first weights for each seed.",
)


def results(outcomes: Sequence[Outcome], sets: Mapping[str, Sets]) -> list[dict[str, Any]]:
    """One entry per experiment and network: its settings, and the scores of every variant.

    Scores are ``{test set: {dice, iou: {mean, sd, seeds}}}`` with the additional set ``all images``. Variants
    other than the first also have ``vs_baseline`` over all images. ``curves`` come from
    :func:`amount_series`.
    """
    groups: dict[tuple[str, str], dict[str, list[Outcome]]] = {}
    for outcome in outcomes:
        job = outcome.job
        groups.setdefault((job.experiment, job.network), {}).setdefault(job.variant, []).append(outcome)
    return [
        _group(experiment, network, variants, sets[experiment])
        for (experiment, network), variants in groups.items()
    ]


def _group(
    experiment: str, network: str, variants: Mapping[str, Sequence[Outcome]], sets: Sets
) -> dict[str, Any]:
    first = next(iter(variants.values()))
    baseline = {measure: _all_scores(first, measure) for measure in MEASURES}
    entries = []
    for name, outcomes in variants.items():
        scores = {test: _scores(outcomes, test) for test in (*sets.tests, ALL_IMAGES)}
        entry = {
            "name": name,
            "real_pairs": sets.variants[name].real,
            "synthetic_pairs": sets.variants[name].synthetic,
            **recorded(sets.variants[name].mixing),
            "seconds": [outcome.seconds for outcome in outcomes],
            "scores": scores,
        }
        if outcomes is not first:
            entry["vs_baseline"] = {
                measure: asdict(compare(_all_scores(outcomes, measure), baseline[measure]))
                for measure in MEASURES
            }
        entries.append(entry)
    return {
        "experiment": experiment,
        "network": network,
        "fit": asdict(first[0].job.fit),
        "seeds": [outcome.job.seed for outcome in first],
        "test_images": {name: len(test.pairs) for name, test in sets.tests.items()},
        "variants": entries,
        "curves": amount_series({name: sets.variants[name] for name in variants}),
    }


def _scores(outcomes: Sequence[Outcome], test: str) -> dict[str, dict[str, Any]]:
    found = {}
    for measure in MEASURES:
        means = [float(np.mean(_of_test(outcome, measure, test))) for outcome in outcomes]
        found[measure] = {**asdict(spread(means)), "seeds": means}
    return found


def _of_test(outcome: Outcome, measure: str, test: str) -> Floats:
    by_test: Mapping[str, Sequence[float]] = getattr(outcome, measure)
    return over_all_sets(by_test) if test == ALL_IMAGES else np.asarray(by_test[test])


def _all_scores(outcomes: Sequence[Outcome], measure: str) -> Floats:
    """Scores (S, N) of S seeds on the N images of all test sets."""
    return np.stack([_of_test(outcome, measure, ALL_IMAGES) for outcome in outcomes])


def per_image_csv(outcomes: Sequence[Outcome]) -> str:
    """All scores of all runs as CSV, one line per test image."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for outcome in outcomes:
        job = outcome.job
        for test, stems in outcome.stems.items():
            for stem, dice, iou in zip(stems, outcome.dice[test], outcome.iou[test], strict=True):
                names = (job.experiment, job.network, job.variant, job.seed, test, stem)
                writer.writerow((*names, f"{dice:.6f}", f"{iou:.6f}"))
    return text.getvalue()


def score_table(group: Mapping[str, Any], measure: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a group's table; ``measure`` is ``dice`` or ``iou``."""
    tests = [*group["test_images"], ALL_IMAGES] if len(group["test_images"]) > 1 else [ALL_IMAGES]
    counts = {**group["test_images"], ALL_IMAGES: sum(group["test_images"].values())}
    header = ["variant", "real + synthetic", *(f"{test} ({counts[test]})" for test in tests)]
    rows = []
    for entry in group["variants"]:
        cells = [_with_sd(entry["scores"][test][measure]) for test in tests]
        mixing = Mixing(entry.get("real_share"), entry.get("then_real", 0)).in_words
        pairs = f"{entry['real_pairs']} + {entry['synthetic_pairs']}" + (f" ({mixing})" if mixing else "")
        found = entry.get("vs_baseline", {}).get(measure)
        rows.append([entry["name"], pairs, *cells, *(_compared(found) if found else ("", ""))])
    return [*header, "difference", "p"], rows


def _with_sd(score: Mapping[str, Any]) -> str:
    return f"{score['mean']:.4f}" + ("" if score["sd"] is None else f" ± {score['sd']:.4f}")


def _compared(found: Mapping[str, Any]) -> tuple[str, str]:
    interval = "" if found["low"] is None else f" [{found['low']:+.4f}, {found['high']:+.4f}]"
    if interval and found["runs"] == 1:
        interval += " (this run only)"
    p = found["p_value"]
    shown = "" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.4f}"
    return f"{found['difference']:+.4f}{interval}", shown


def heading(group: Mapping[str, Any]) -> str:
    """The heading of a group's table."""
    fit, seeds = group["fit"], len(group["seeds"])
    return (
        f"{group['experiment']}: {group['network']}, {fit['steps']} steps of {fit['batch_size']} at "
        f"{fit['resolution']} px, {seeds} {'seed' if seeds == 1 else 'seeds'}"
    )


def as_markdown(groups: Sequence[Mapping[str, Any]]) -> str:
    """All tables as Markdown."""
    parts = []
    for group in groups:
        parts.append(f"### {heading(group)}\n")
        for measure, name in MEASURES.items():
            header, rows = score_table(group, measure)
            lines = [[name, *header[1:]], ["---"] * len(header), *rows]
            parts += ["| " + " | ".join(line) + " |" for line in lines] + [""]
    return "\n".join(parts)


def as_html(
    title: str,
    note: str,
    groups: Sequence[Mapping[str, Any]],
    outcomes: Sequence[Outcome],
    settings: Mapping[str, object],
) -> str:
    """The page ``segmentation.html`` with tables, curves, worst and best cases, and settings."""
    sections = []
    for group in groups:
        tables = []
        for measure, name in MEASURES.items():
            header, rows = score_table(group, measure)
            tables.append(captioned(table(header, rows, header[1:]), name))
            tables.append(amount_curve(group, measure, name))
        sections.append(section(heading(group), "".join(tables)))
        sections.append(section(f"Cases: {group['experiment']}, {group['network']}", _cases(group, outcomes)))
    notes = bullets([*([note] if note else []), *READING])
    return page(
        title, [section("How to read this", notes), *sections, section("Settings", key_values(settings))]
    )


def _cases(group: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    shown = []
    for outcome in outcomes:
        job = outcome.job
        wanted = (job.experiment, job.network) == (group["experiment"], group["network"])
        if wanted and outcome.cases_file.exists():
            with Image.open(outcome.cases_file) as image:
                pixels = np.asarray(image.convert("RGB"))
            caption = (
                f"{job.variant}, seed {job.seed}. From the top: the worst test images by Dice with the "
                "true outline, the same with the one found; the best ones likewise."
            )
            shown.append(captioned(picture(pixels, caption), caption))
    return "".join(shown)
