"""Check a dataset written by training.generate, and write its manifest.jsonl and its format's index.

    python -m training.merge SET [--deep] [--partial]

The last worker of a dataset writes these lists itself. If it was killed while doing so, this command writes
them; if pairs are missing, it names the incomplete shards. --partial also writes the lists of an unfinished
dataset, which can still be resumed. Every listed file must exist at its recorded size; --deep also reads each
file and compares its digest. SET is a folder, or an address that fsspec knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tqdm import tqdm

from siamese_core.dataset_generation.finished_pairs import DatasetLists, DatasetPlan, SetState, stored_plan
from siamese_core.dataset_generation.storage import open_store

from .command_line.options import OptionError, command_parser, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("merge", __doc__)
    parser.add_argument("set", metavar="SET", help="folder or address of the dataset")
    parser.add_argument("--deep", action="store_true", help="read every file and compare its digest")
    parser.add_argument("--partial", action="store_true", help="write the lists of an unfinished dataset too")
    args = parser.parse_args(arguments)
    store = open_store(args.set, "merge")
    lists = DatasetLists(store, stored_plan(store))
    broken = _broken(lists, args.deep)
    if broken:
        raise OptionError(
            f"{args.set}: {len(broken)} files are missing or damaged, the first is '{broken[0]}'; remove "
            "what is there of them and run training.generate with --resume, which makes their pairs again"
        )
    state = lists.state()
    print(_described(state, lists.plan))
    if lists.finish(incomplete=args.partial):
        print(f"lists of {state.pairs} pairs are in {args.set}")
        return 0
    return 1


def _broken(lists: DatasetLists, deep: bool) -> list[str]:
    """Names of files whose size or, if ``deep``, digest differs from their pair's line."""
    broken: dict[str, None] = {}
    for line in tqdm(lists.lines(), total=lists.plan.count, desc="checking", unit="pair", leave=False):
        for file in line.get("files", ()):
            if lists.store.size(file["name"]) != file["bytes"] or (
                deep and hashlib.sha256(lists.store.read(file["name"])).hexdigest() != file["sha256"]
            ):
                broken[file["name"]] = None
    return list(broken)


def _described(state: SetState, plan: DatasetPlan) -> str:
    text = f"{state.pairs} of {plan.count} pairs"
    if state.skipped:
        text += f", {state.skipped} without a mask that meets its constraints (skipped.jsonl)"
    if state.missing:
        first, last = state.missing[0], state.missing[-1]
        text += f"; {len(state.missing)} chunks of {plan.chunk_pairs} pairs are unfinished, {first} to {last}"
    return text


if __name__ == "__main__":
    run_command(main)
