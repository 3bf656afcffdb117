"""Convert a dataset to the layout that a trainer reads.

    python -m training.export SOURCE --output DIR --format NAME

SOURCE is a folder with images/ and masks/, a prompt.json, or a dataset in any layout of this command except
webdataset. Every pixel is preserved: images become PNG, masks PNG of background and foreground. The files
appear only at the end, all at once; if anything fails, nothing is written.

    pairs        images/, masks/, prompt.json: what the commands here read
    pranet       TrainDataset/images, TrainDataset/masks
    nnunet       imagesTr, labelsTr (0 and 1), dataset.json, for a folder Dataset<number>_<name> of nnU-Net v2
    coco         images/, annotations.json: one object per connected region, run-length encoded
    isic         the folders and mask names of ISIC 2018, task 1
    imagefolder  images/, masks/, metadata.jsonl: load_dataset("DIR") of Hugging Face
    webdataset   tar files of --pairs-per-tar pairs

All layouts also get a manifest.jsonl: how each pair was made, if SOURCE has a manifest that records it, and
the pair's files with their SHA-256.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from siamese_core.pairs.export_formats import FORMATS
from siamese_core.pairs.pair_rewriting import export_pairs, find_source
from siamese_core.settings import COUNT, option

from .command_line.mask_options import MaskOptions
from .command_line.notes import note
from .command_line.options import (
    OptionError,
    add_flags,
    command_parser,
    require_empty,
    run_command,
    settings_of,
)


@dataclass(frozen=True)
class ExportSettings(MaskOptions):
    """Output folder, layout, and how masks are read."""

    output: Path = option(Path(), "folder for the dataset, new or empty")
    format: str = option("", f"layout of the dataset: {', '.join(FORMATS)}")
    pairs_per_tar: int = option(100, "pairs per tar of webdataset; this many are in memory at a time", COUNT)
    prompt: str = option("", "prompt for pairs that have none")


def main(arguments: Sequence[str] | None = None) -> int:
    args, settings = _parse(arguments)
    _check_settings(settings)
    kind = FORMATS[settings.format]
    source = find_source(args.source, note)
    if source.manifest is not None and not source.keeps_indices:
        note(f"{source.manifest.path} does not tell each pair by an index of its own: numbered anew")
    with tqdm(total=len(source.pairs), desc="exporting", unit="pair", mininterval=1.0) as progress:
        notes = export_pairs(
            source,
            kind,
            settings.output,
            chunk=settings.pairs_per_tar if kind.chunk_is_a_file else 1,
            rule=settings.mask_rule,
            default_prompt=settings.prompt,
            on_pair=progress.update,
        )
    for text in notes:
        note(text)
    print(f"{len(source.pairs)} pairs written to {settings.output} as {settings.format}")
    return 0


def _check_settings(settings: ExportSettings) -> None:
    for name in ("output", "format"):
        if getattr(settings, name) in (Path(), ""):
            raise OptionError(f"--{name} is needed")
    if settings.format not in FORMATS:
        raise OptionError(f"--format {settings.format} is not known; take one of {', '.join(FORMATS)}")
    require_empty(settings.output)


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, ExportSettings]:
    parser = command_parser("export", __doc__)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of pairs, or a prompt.json")
    parser.add_argument("--config", type=Path, help="TOML file with any of the settings")
    add_flags(parser, ExportSettings)
    args = parser.parse_args(arguments)
    return args, settings_of(ExportSettings, args)


if __name__ == "__main__":
    run_command(main)
