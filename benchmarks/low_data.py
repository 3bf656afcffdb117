"""Few labels, many unlabelled images: does synthetic data help, and does Siamese training help more?

    python -m benchmarks.low_data --source DATASET --output DIR --pairs 8 24 --draws 6

DATASET is anything training.prepare reads. All files with the same name before the first _ count as one
image. If the dataset has its own split, its training pairs are the pool and all others the test set;
otherwise its images are split, with --test-share of each kind used for testing. A base is trained on the
pool's images, or on those of --unlabelled DIR, without masks. Then, for each number in --pairs and each draw
of that many labelled pairs from the pool: mask-only and Siamese models are trained on copies of them; images
are generated for their masks and for random masks; pairs are selected by a judge trained on the labelled
pairs; metrics are computed; and segmentation networks are trained on the labelled pairs alone and with each
model's pairs. Only the scoring of these networks reads test images. --plan has the settings of every stage
(default: benchmarks/low_data.toml); without [copies] models are trained on the pairs as they are, without
[select] all synthetic pairs are used, without [evaluate] there are no metrics.

Output: DIR/study.md, study.html and study.json: one table, whose differences have intervals over draws and
test images. Finished stages are kept: after an interruption, the same command resumes. Once its base is
there, another process can make the later draws (--first-draw 4, beside --draws 3); afterwards the command for
all draws writes the table.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.low_data_table import DrawScores, as_html, as_markdown, table_of
from siamese_core import shipped
from siamese_core.files import write_text_atomic
from siamese_core.pairs.pair_copies import copy_pairs
from siamese_core.pairs.pair_files import find_pairs, pairs_fingerprint
from siamese_core.resume_check import check_record
from training import evaluate, generate, make_base, prepare, segment, select, train
from training.ablation.plan import AblationPlan, Variant, flags, plan_of_table, segmentation_sets
from training.command_line.options import OptionError, read_toml, run_command
from training.command_line.stages import Command, generate_once, resume_words, run_stage, write_once
from training.preparation.dataset_layouts import read_dataset
from training.preparation.splits import (
    draw_labels,
    image_of,
    pooled,
    pooled_by_set,
    split_by_images,
)
from training.select import SelectionError

_PLAN = Path(__file__).with_suffix(".toml")
_OWN_STAGES = ("base", "copies", "random", "select")  # in addition to those of an ablation
_ADDED_STAGES = ("copies", "random")  # which records of studies begun earlier lack


class Study:
    """One study in its folder; finished stages are not repeated."""

    def __init__(self, args: argparse.Namespace) -> None:
        table = read_toml(args.plan)
        self.stages: dict[str, dict[str, Any]] = {name: dict(table.pop(name, {})) for name in _OWN_STAGES}
        self.plan: AblationPlan = plan_of_table(table, args.plan)
        self.args, self.output = args, Path(args.output)
        settings = dict(self.plan.stages["segment"])
        self.networks: list[str] = settings.pop("networks", ["small-unet"])
        self.segmentation = settings
        if len(self.networks) != 1 or "seeds" in settings:
            raise OptionError(f"{args.plan}: [segment] takes one network, and one seed for each draw")
        self.pool, self.test = self.output / "data/pool", self.output / "data/test"

    def prepare(self) -> None:
        """Write the pool and the test set; refuse a folder that holds another study."""
        args = self.args
        dataset = read_dataset(args.source)
        official = dataset.is_split

        def divided(folder: Path) -> None:
            words = [str(args.source), "--output", str(folder / "all")]
            words += [] if official else ["--split", "1:0:0"]
            words += flags({name: getattr(args, name) for name in ("prompt", "crop") if getattr(args, name)})
            words += ["--modes", "colour", "--mode-count", str(args.modes)] if args.modes else []
            run_stage(prepare.main, "preparing", words)
            found = {
                file.parent.relative_to(folder / "all").as_posix(): find_pairs(file.parent)
                for file in sorted(folder.glob("all/**/prompt.json"))
            }
            pool = found.pop("train")
            sets = {"train": pool, "test": pooled_by_set(found)}
            if not official:
                sets = split_by_images(pool, args.test_share, args.seed)
            copy_pairs(folder / "pool", sets["train"], None)
            copy_pairs(folder / "test", sets["test"], None)

        write_once(self.output / "data", divided)
        record = {
            "stages": {
                **{name: stage for name, stage in self.stages.items() if stage or name not in _ADDED_STAGES},
                **self.plan.stages,
            },
            "variants": {variant.name: dict(variant.train) for variant in self.plan.variants},
            "seed": args.seed,
            "base": str(args.base) if args.base else None,
            "unlabelled": str(args.unlabelled) if args.unlabelled else None,
            "pool": pairs_fingerprint(find_pairs(self.pool)),
            "test": pairs_fingerprint(find_pairs(self.test)),
            "data": {
                "source": pairs_fingerprint(pooled(dataset.sets)),
                **{name: getattr(args, name) for name in ("prompt", "crop", "modes")},
                "test_share": None if official else args.test_share,
            },
        }
        file = self.output / "plan.json"
        if file.exists():
            found = _read_json(file)
            added = () if "data" in found else ("data",)  # which records of studies begun earlier lack
            check_record(file, found, record, may_differ=added, what="study")
        else:
            write_text_atomic(file, json.dumps(record, indent=1) + "\n")

    def base(self) -> Path:
        """The base of all models, trained on unlabelled images unless one is given."""
        if self.args.base:
            return Path(self.args.base)
        folder = self.output / "base"
        file = folder / "base.safetensors"
        if not file.exists():
            words = ["--images", str(self.args.unlabelled or self.pool), "--output", str(folder)]
            words += ["--init", str(shipped.BASE), *flags(self.stages["base"])]
            run_stage(make_base.main, "base", [*words, *resume_words(folder)])
        return file

    def draw(self, base: Path, count: int, number: int) -> DrawScores:
        """Run all stages for one draw of ``count`` labels and return the scores."""
        folder = self.output / f"labels-{count}" / f"draw-{number}"
        seed = self.args.seed + number
        labels = folder / "labels"

        def drawn(target: Path) -> None:
            copy_pairs(target, draw_labels(find_pairs(self.pool), count, seed), None)

        write_once(labels, drawn)
        copies = self._copies(folder / "copies", labels, seed)
        synthetic = {
            one.name: self._synthetic(folder, one, labels, copies, base, seed) for one in self.plan.variants
        }
        reports = {
            name: folders[0].parent / "evaluation/evaluation.json" for name, folders in synthetic.items()
        }
        evaluations = {name: _read_json(file)["metrics"] for name, file in reports.items() if file.exists()}
        stems, scores = self._segment(folder, labels, synthetic, seed)
        return DrawScores(count, number, [image_of(stem) for stem in stems], scores, evaluations)

    def _copies(self, target: Path, labels: Path, seed: int) -> Path:
        """The folder of pairs that models are trained on: ``labels`` in several copies, or as they are."""
        if not self.stages["copies"]:
            return labels
        words = [str(labels), "--split", "1:0:0", "--seed", str(seed), *flags(self.stages["copies"])]
        self._made(target, prepare.main, "copying", words)
        return target / "train"

    def _synthetic(
        self, folder: Path, variant: Variant, labels: Path, copies: Path, base: Path, seed: int
    ) -> list[Path]:
        """The folders of a variant's pairs to train on: for the labels' masks and for random masks."""
        own = folder / variant.folder
        model = own / "training/model.safetensors"
        if not model.exists():
            paths = {"pairs": copies, "base": base, "output": model.parent, "seed": seed}
            settings = {**self.plan.stages["train"], **variant.train}
            words = [*flags(paths), *flags(settings), *resume_words(model.parent)]
            run_stage(train.main, f"{own}: training", words)
        kept = []
        for name, more in (("masks", {}), ("random", {"random_masks": True, **self.stages["random"]})):
            pairs = own / name
            paths = {"checkpoint": model, "masks": labels, "seed": seed}
            words = [*flags(paths), *flags({**self.plan.stages["generate"], **more})]
            generate_once(generate.main, f"{pairs}: generating", words, pairs)
            kept.append(self._selected(pairs, labels, seed))
        if metrics := self.plan.stages["evaluate"]:
            paths = {"real": labels, "synthetic": own / "masks", "segmenter_train": labels}
            self._made(own / "evaluation", evaluate.main, "metrics", [*flags(paths), *flags(metrics)])
        return kept

    def _made(self, target: Path, command: Command, label: str, words: Sequence[str]) -> None:
        """Run ``command`` with output to the folder ``target``, unless that exists."""
        write_once(
            target,
            lambda folder: run_stage(command, f"{target}: {label}", [*words, "--output", str(folder)]),
        )

    def _selected(self, pairs: Path, labels: Path, seed: int) -> Path:
        """The folder of ``pairs`` kept by a judge trained on ``labels``, or of all if it keeps none."""
        target = pairs.with_name(f"{pairs.name}-selected")
        none = pairs.with_name(f"{pairs.name}-none-selected.txt")
        if not self.stages["select"] or none.exists():
            return pairs
        paths = {"pairs": pairs, "real": labels, "seed": seed}
        words = [*flags(paths), *flags(self.stages["select"])]
        try:
            self._made(target, select.main, "selecting", words)
        except SelectionError as error:
            print(f"note: all pairs are used ({error})")
            write_text_atomic(none, f"{error}\n")
            return pairs
        return target

    def _segment(
        self, folder: Path, labels: Path, synthetic: Mapping[str, Sequence[Path]], seed: int
    ) -> tuple[list[str], dict[str, list[float]]]:
        """Compare segmentation on labels alone with labels plus each variant's pairs.

        Returns the stems of the test pairs, and the Dice of each by variant.
        """
        config = folder / "segmentation.toml"
        sets = segmentation_sets(self.plan.title, labels, synthetic, {"test": str(self.test)})
        write_text_atomic(config, sets)
        words = ["--config", str(config), "--network", *self.networks, *flags(self.segmentation)]
        words += ["--output", str(folder / "segmentation"), "--seeds", "1", "--seed", str(seed), "--resume"]
        run_stage(segment.main, f"{folder}: segmentation", words)
        return _read_scores(folder / "segmentation/scores.csv")


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parse(arguments)
    study = Study(args)
    study.prepare()
    base = study.base()
    draws = []
    # All sizes of one draw come before the next draw, so that an unfinished study has some of each.
    for number in range(args.first_draw, args.draws + 1):
        for count in args.pairs:
            draws.append(study.draw(base, count, number))
            if args.first_draw == 1:
                _write(study, draws)
    print(f"\n{as_markdown(study.plan.title, table_of(draws))}")
    if args.first_draw == 1:
        print(f"see {study.output / 'study.html'}")
    return 0


def _write(study: Study, draws: Sequence[DrawScores]) -> None:
    """Write the tables of the finished draws, so that an unfinished study can be read, too."""
    rows = table_of(draws)
    write_text_atomic(study.output / "study.json", json.dumps([row.plain() for row in rows], indent=1) + "\n")
    write_text_atomic(study.output / "study.md", as_markdown(study.plan.title, rows))
    write_text_atomic(study.output / "study.html", as_html(study.plan.title, rows))


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8")))


def _read_scores(path: Path) -> tuple[list[str], dict[str, list[float]]]:
    """The stems of the test pairs, and the Dice of each by variant, in the same order."""
    found: dict[str, dict[str, float]] = {}
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["variant"], {})[row["stem"]] = float(row["dice"])
    stems = list(next(iter(found.values())))
    return stems, {variant: [dice[stem] for stem in stems] for variant, dice in found.items()}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="a dataset that training.prepare reads")
    parser.add_argument("--output", type=Path, required=True, help="folder for all results")
    parser.add_argument("--unlabelled", type=Path, help="images to train the base on, instead of the pool's")
    parser.add_argument("--base", type=Path, help="an existing base, instead of training one")
    parser.add_argument(
        "--pairs", type=int, nargs="+", default=[24], help="labelled pairs per draw (default: 24)"
    )
    parser.add_argument("--draws", type=int, default=6, help="draws for each number of pairs (default: 6)")
    parser.add_argument("--first-draw", type=int, default=1, help="make no draw before this (default: 1)")
    parser.add_argument(
        "--test-share", type=float, default=0.35, help="share of the images used for testing (default: 0.35)"
    )
    parser.add_argument("--prompt", help="prompt for every pair")
    parser.add_argument("--crop", type=int, help="cut tiles of this side, in pixels")
    parser.add_argument("--modes", type=int, help="number of image kinds to distinguish by colour")
    parser.add_argument("--seed", type=int, default=42, help="seed of the split and the draws (default: 42)")
    parser.add_argument("--plan", type=Path, default=_PLAN, help="TOML file with the settings of all stages")
    args = parser.parse_args(arguments)
    if not 1 <= args.first_draw <= args.draws:
        parser.error(f"--first-draw {args.first_draw} must lie in 1..{args.draws}, the number of --draws")
    return args


if __name__ == "__main__":
    run_command(main)
