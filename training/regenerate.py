"""Generate one pair again from its record, and compare the result with the record.

    python -m training.regenerate RECORD --pair NAME --checkpoint FILE --masks DIR --output DIR

RECORD is the manifest.jsonl of a dataset, with NAME the pair's stem, or a PNG written by training.generate,
without --pair. --masks takes whatever training.generate was given: a folder of masks, a folder of pairs, or a
single mask file. Output: OUTPUT/images and OUTPUT/masks. Files are identical byte for byte only with the
versions, device and threads of the record; the command reports where yours differ. --backgrounds DIR is
needed for a pair that was generated into a real frame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from siamese_core.dataset_generation.background_frames import frame_folder, read_frame
from siamese_core.dataset_generation.mask_source import MaskUse, PairMask
from siamese_core.diffusers_backend.siamese_model import model_from_file
from siamese_core.errors import UserError
from siamese_core.files import contained_path, file_digest, write_bytes_atomic
from siamese_core.json_lines import json_objects, parse_json, text_in
from siamese_core.masks.mask_files import MASK_FOLDERS, first_subfolder, list_images, read_mask
from siamese_core.masks.random_transforms import TransformSettings
from siamese_core.method.background_blending import MOST_BLEND
from siamese_core.overlap import places_of, require_apart
from siamese_core.pairs.export_formats import FORMATS, FinishedPair
from siamese_core.pairs.manifest import RECORD_KEY, PairRecord, record_of, typed_fields
from siamese_core.weights.model_file import load_model

from .command_line.options import OptionError, command_parser, require_empty, run_command
from .generation.pair_sampling import PairJob, SamplerSettings, Texts, sample_pairs, versions

# Records are untrusted: these limits keep them from exhausting memory.
_RANGES = {"steps": (1, 999), "resolution": (64, 4096), "batch_size": (1, 1024), "threads": (1, 1024)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_parser("regenerate", __doc__)
    parser.add_argument("record", metavar="RECORD", type=Path, help="manifest.jsonl, or a generated image")
    parser.add_argument("--pair", metavar="NAME", help="the pair's stem, when RECORD is a manifest")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the model file that generated it")
    parser.add_argument(
        "--masks",
        type=Path,
        required=True,
        help="folder of the masks it was generated for, or the single mask file",
    )
    parser.add_argument("--backgrounds", type=Path, help="folder of its background frame, if it has one")
    parser.add_argument("--output", type=Path, required=True, help="folder for the pair, new or empty")
    args = parser.parse_args(arguments)
    require_empty(args.output)
    record, sampler, wanted = read_record(args.record, args.pair)
    if sampler.image_weight is not None:
        raise OptionError(
            f"{record.stem}: generated with an image beside its mask, which no record holds; such a pair "
            "cannot be generated again"
        )
    _check_digest(args.checkpoint, record.checkpoint_digest, "checkpoint")
    mask = _mask(args.masks, record, sampler)
    background = _background(args.backgrounds, record, sampler)
    require_apart([args.output], places_of([mask.file, *([background] if background else [])]))
    height, width = mask.written.shape
    frame = None if background is None else read_frame(background, (height, width), sampler.resize_mode)
    job = PairJob(record, mask, None, frame)
    for name, own in versions().items():
        if record.versions.get(name) != own:
            print(f"note: generated with {name} {record.versions.get(name)}, this is {own}")
    torch.set_num_threads(sampler.threads)
    model = model_from_file(load_model(args.checkpoint))
    model.to(_device(sampler.device), sampler.precision)
    if sampler.compile:
        model.compile()
    # The content of the rest of the batch does not matter, but its size changes the last bits.
    pairs = sample_pairs(model, [job] * sampler.batch_size, Texts(model))
    digest = _write(pairs[record.index % sampler.batch_size], args.output)
    print(f"{record.stem}: written to {args.output}; {_compared(digest, wanted)}")
    return 0 if wanted in (None, digest) else 1


def _device(name: str) -> str:
    """``name`` if that device is available, else the CPU."""
    try:
        torch.empty(1, device=name).item()
    except (RuntimeError, AssertionError) as error:  # builds without CUDA raise AssertionError
        reason = str(error).partition("\n")[0]
        print(f"note: generated on {name[:40]!r}, this is the CPU ({reason[:200]})")
        return "cpu"
    return name


def read_record(path: Path, pair: str | None) -> tuple[PairRecord, SamplerSettings, str | None]:
    """The record of ``pair`` in the manifest ``path``, or of the image ``path`` if ``pair`` is None.

    Also returns its sampling settings, and the digest of the image's file if it is not shared. Raises
    OptionError and ManifestError for an invalid record or one that cannot be generated from.
    """
    if pair is None:
        line, name = _in_image(path), str(path)
        digest: str | None = file_digest(path)
    else:
        line, name, digest = _in_manifest(path, pair)
    record = record_of(line, name)
    sampler = SamplerSettings(**typed_fields(SamplerSettings, record.sampler, f"The sampler of {name}"))
    for key, (least, most) in _RANGES.items():
        if not least <= getattr(sampler, key) <= most:
            raise OptionError(f"{name}: its {key} is not in {least}..{most}")
    if sampler.background is not None and sampler.blend not in range(MOST_BLEND + 1):
        raise OptionError(f"{name}: its blend is not in 0..{MOST_BLEND}")
    return record, sampler, digest


def _in_manifest(path: Path, pair: str) -> tuple[dict[str, Any], str, str | None]:
    """The line of ``pair``, its name for messages, and the digest of the pair's image if that is a PNG."""
    for line in json_objects(path):
        if line.value.get("stem") == pair:
            name, files = f"{path}, line {line.number}", line.value.get("files")
            image = files[0] if isinstance(files, list) and files and isinstance(files[0], dict) else {}
            is_png = (text_in(image, "name") or "").endswith(".png")
            return line.value, name, text_in(image, "sha256") if is_png else None
    raise OptionError(f"{path}: no pair is called '{pair}'; --pair takes the stem that the manifest gives")


def _in_image(path: Path) -> dict[str, Any]:
    """The record in the PNG text of an image written by training.generate."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            text = image.info.get(RECORD_KEY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OptionError(f"{path}: cannot be read as a PNG ({error}); a manifest needs --pair") from error
    if text is None:
        raise OptionError(f"{path}: carries no record; training.generate writes images that do")
    try:
        line = parse_json(text)
    except ValueError as error:
        raise OptionError(f"{path}: not a record in JSON ({error})") from error
    if not isinstance(line, dict):
        raise OptionError(f"{path}: not a record, which is a JSON object")
    return line


def _source_mask(masks: Path, record: PairRecord) -> Path:
    """The record's mask file in ``masks``, given as for training.generate."""
    if masks.is_file():
        return masks
    if not masks.is_dir():
        raise OptionError(f"{masks}: no such folder of masks; check --masks")
    for folder in (first_subfolder(masks, MASK_FOLDERS), masks):
        for path in list_images(folder) if folder else ():
            # Compared with existing names, so that a record cannot lead outside the folder.
            if path.name == record.mask_file:
                return path
    raise OptionError(
        f"{masks}: the mask is not there: {record.stem} was generated for {record.mask_file[:80]!r}; give "
        "the masks that training.generate was given"
    )


def _mask(masks: Path, record: PairRecord, sampler: SamplerSettings) -> PairMask:
    path = _source_mask(masks, record)
    _check_digest(path, record.mask_digest, "mask")
    transform: dict[str, Any] | None = dict(record.transform) if record.transform else None
    ranges: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in (transform or {}).items()
    }
    seed = ranges.pop("seed", 0)
    try:
        transforms = TransformSettings(**ranges) if ranges else None
        if type(seed) is not int:
            raise TypeError(f"seed is {seed!r:.40}")
    except (UserError, TypeError) as error:
        raise OptionError(f"{record.stem}: its record has no transform that can be made ({error})") from error
    use = MaskUse(
        size=(sampler.resolution, sampler.resolution),
        resize_mode=sampler.resize_mode,
        written=sampler.size,
        rule=sampler.mask_rule,
        transforms=transforms,
    )
    reading = read_mask(path, use.rule)
    used = use.apply(reading.mask, seed)
    return PairMask(record.stem, path, record.mask_digest, *used, transform, use.rule)


def _background(folder: Path | None, record: PairRecord, sampler: SamplerSettings) -> Path | None:
    """The file of the record's frame in ``folder``; None for a record without a frame."""
    name = sampler.background
    if name is None:
        return None
    if folder is None:
        raise OptionError(
            f"{record.stem}: its background is the frame '{name}'; --backgrounds gives its folder"
        )
    path = contained_path(frame_folder(folder), name)
    _check_digest(path, sampler.background_digest or "", "frame")
    return path


def _check_digest(path: Path, wanted: str, kind: str) -> None:
    if not path.is_file():
        raise OptionError(f"{path}: the {kind} is not there")
    if file_digest(path) != wanted:
        raise OptionError(f"{path}: not the {kind} of the record, whose SHA-256 is {wanted}")


def _write(pair: FinishedPair, output: Path) -> str:
    """Write the pair in the layout "pairs" and return the digest of its image file."""
    image, mask = next(FORMATS["pairs"].pair_files([pair]))
    for name, content in (mask, image):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(contained_path(output, name), content)
    return hashlib.sha256(image[1]).hexdigest()


def _compared(digest: str, wanted: str | None) -> str:
    if wanted is None:
        return "the record has no digest to compare with, since the image shares a file"
    return "equal to the original, byte for byte" if digest == wanted else "NOT equal to the original"


if __name__ == "__main__":
    run_command(main)
