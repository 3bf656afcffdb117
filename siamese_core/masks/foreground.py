"""Deciding which pixels of a decoded mask are foreground; ambiguous files are refused.

The rules follow what an image viewer shows, or the user's settings; docs/masks.md has them as a table.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .. import advice
from .flat_levels import (
    clustered_colours,
    flat_colours,
    flat_levels,
    levels_of,
    looks_like_colour_photograph,
    looks_like_photograph,
)
from .foreground_rule import ForegroundRule
from .image_decoding import (
    DecodedImage,
    MaskError,
    deep_grey_values,
    rgb_pixels,
    scaled_to_8_bits,
    white_value,
)
from .mask_reading import Mask, MaskReading, UnclearMask
from .transparency import alpha_channel, opaque_pixels, values_beside_alpha

Values = NDArray[np.integer]

_LARGEST_LABEL = 63
_VOID_LABEL = 255
_SHOWN_VALUES = 10
_LOSSY_REACH = 40  # largest change of a colour channel by JPEG

_OR_A_THRESHOLD = ", or set a threshold above 0."
_OR_EVERY_ONE = ", or set the threshold to 0 to take every one but black."


def read_foreground(image: DecodedImage, rule: ForegroundRule) -> MaskReading:
    """The foreground of ``image`` according to ``rule``. Raises MaskError when it is ambiguous."""
    try:
        reading = _by_rule(image, rule)
    except UnclearMask as error:
        raise MaskError(f"The mask '{image.path}' {error}") from error
    if image.orientation != 1:
        reading = reading.noted(f"it was turned upright by its EXIF orientation {image.orientation}")
        if not _was_turned_before(image):
            reading = replace(reading, changed=f"turned upright by EXIF orientation {image.orientation}")
    return replace(reading, mask=~reading.mask) if rule.invert else reading


def _by_rule(image: DecodedImage, rule: ForegroundRule) -> MaskReading:
    alpha = alpha_channel(image)
    if rule.source == "alpha":
        return opaque_pixels(alpha, rule)
    if rule.colour is not None:
        reading = _by_colour(image, rule.colour)
    elif rule.label is not None:
        reading = _by_label(image, rule.label)
    elif alpha is None or rule.source != "auto":
        reading = _by_value(image, rule)
    else:
        reading = values_beside_alpha(_clear_values(image, rule))
    return reading if alpha is None else reading.noted("its transparency was ignored")


def _clear_values(image: DecodedImage, rule: ForegroundRule) -> MaskReading | None:
    try:
        return _by_value(image, rule)
    except UnclearMask:
        return None


def _by_colour(image: DecodedImage, colour: str) -> MaskReading:
    digits = colour.removeprefix("#")
    wanted = np.array([int(digits[place : place + 2], 16) for place in (0, 2, 4)], np.int16)
    difference = np.abs(rgb_pixels(image).astype(np.int16) - wanted).max(axis=-1)
    return MaskReading(difference <= (_LOSSY_REACH if image.is_lossy else 0))


def _by_label(image: DecodedImage, label: int) -> MaskReading:
    if image.pixels.mode in ("P", "PA"):
        return MaskReading(np.asarray(image.pixels.getchannel(0)) == label)
    if image.is_lossy:
        raise _rounded("save it as PNG, or leave out the label.")
    values = None if image.has_deep_colour else _grey_values(image)
    if values is None:
        raise UnclearMask(
            f"is a colour image, which holds no label numbers; {advice.COLOUR_IN_PLACE_OF_LABEL} or save it "
            "as 8-bit grey or with a palette."
        )
    changed = f"labels of {image.bits} bits are the stored ones" if image.bits in (2, 4) else None
    return MaskReading(values == label, changed=changed)


def _by_value(image: DecodedImage, rule: ForegroundRule) -> MaskReading:
    if image.is_lossy and rule.takes_every_label:
        raise _rounded(f"save it as PNG{_OR_A_THRESHOLD if rule.source == 'auto' else '.'}")
    if image.pixels.mode in ("P", "PA") and rule.source != "brightness":
        return _by_palette(image, rule)
    values = _grey_values(image)
    if values is None:
        return _by_colours(rgb_pixels(image), image.is_lossy, rule)
    if image.bits == 1:
        return MaskReading(values == 1, is_blank=_is_flat(values))
    # Pillow reads only the upper 8 bits of 16-bit colours and of 16-bit grey with alpha.
    bits = 8 if image.has_deep_colour else image.bits
    return _by_grey(values, bits, image.is_lossy, rule)


def _by_grey(values: Values, bits: int, is_lossy: bool, rule: ForegroundRule) -> MaskReading:
    """The foreground by the (H, W) ``values`` of a file with ``bits`` per channel."""
    highest, is_blank = int(values.max()), _is_flat(values)
    if highest <= 1 and rule.source != "brightness":
        note = "it holds only 0 and 1 and was read as black and white" if highest else None
        changed = f"0 and 1 of {bits} bits are black and white" if highest and bits in (2, 4) else None
        return MaskReading(values == 1, note, changed, is_blank)
    white = 2**bits - 1 if bits < 16 else white_value(highest)
    notes = [] if bits <= 12 or rule.takes_every_label else _depth_notes(white)
    if rule.takes_every_label:
        mask = values > 0
    else:
        if rule.source == "auto":
            levels = levels_of(values)
            _refuse_unclear_grey(values, levels, white, is_lossy, rule)
            notes += [] if is_lossy else _level_notes(levels, rule)
        mask = scaled_to_8_bits(values, white) > rule.threshold
    if not mask.any():
        notes.append(f"no value in it exceeds the threshold {rule.threshold}, so it was read as empty")
    changed = None
    if white not in (255, 65535) and not np.array_equal(mask, _as_first_read(values, bits, rule)):
        changed = f"values of 0..{white} are scaled to that range"
    return MaskReading(mask, "; ".join(notes) or None, changed, is_blank)


def _refuse_unclear_grey(
    values: Values, levels: Values, white: int, is_lossy: bool, rule: ForegroundRule
) -> None:
    """Raise UnclearMask for label maps, photographs, and images above the threshold everywhere."""
    is_photo = len(levels) > 2 and looks_like_photograph(values, is_lossy)
    if is_lossy:
        flat = clustered_colours(scaled_to_8_bits(values, white)[..., None])[:, 0]
        if is_photo or len(flat) > 2:
            raise _photograph(values) if is_photo else _grey_classes(np.sort(flat), "about ")
        return
    between = flat_levels(values)[1:-1]
    if is_photo and len(between) < len(levels) / 2:
        raise _photograph(values)
    if len(between) or _are_small_ids(levels, white, rule.threshold):
        raise _label_map(levels)
    if len(levels) > 1 and scaled_to_8_bits(levels[:1], white)[0] > rule.threshold:
        raise _everywhere(rule)


def _are_small_ids(levels: Values, white: int, threshold: int) -> bool:
    """Whether ``levels`` are class numbers: small ones, or 1, 2, ... together with the void label 255."""
    highest = int(levels[-1])
    if highest < white and highest <= min(_LARGEST_LABEL, threshold * white // 255):
        return True
    ids = levels[levels > 0][:-1]
    # 255 customarily marks pixels to ignore.
    counts_up = 0 < len(ids) <= _LARGEST_LABEL and np.array_equal(ids, np.arange(1, len(ids) + 1))
    return bool(counts_up and highest == _VOID_LABEL and white >= _VOID_LABEL)


def _by_palette(image: DecodedImage, rule: ForegroundRule) -> MaskReading:
    """The foreground by the palette's colours if they are dark and bright, or grey; otherwise by indices."""
    indices = np.asarray(image.pixels.getchannel(0))
    palette = np.zeros((256, 3), np.uint8)
    stored = np.array(image.pixels.getpalette() or [], np.uint8).reshape(-1, 3)
    palette[: len(stored)] = stored
    used = levels_of(indices)
    colours = palette[used]
    brightness = palette.max(axis=1)
    least = 0 if rule.takes_every_label else rule.threshold
    is_bright = brightness > least
    note = None
    if len(np.unique(colours, axis=0)) == 2 and is_bright[used].any() and not is_bright[used].all():
        mask = is_bright[indices]
    elif np.array_equal(used, [0, 1]) and brightness[0] < brightness[1] and not is_bright[0]:
        mask = indices == 1
        note = "it holds only 0 and 1 and was read as black and white"
    elif rule.takes_every_label:
        mask = _is_labelled(used, brightness)[indices]
    elif _are_grey(colours):
        reading = _by_grey(palette[indices][..., 0], 8, is_lossy=False, rule=rule)
        return replace(reading, changed=_palette_change(reading.mask, indices, rule))
    elif len(used) == 1 and bool(is_bright[used[0]]) == bool(used[0]) and used[0] <= 1:
        mask = indices == 1
    else:
        raise _label_map(used)
    return MaskReading(mask, note, _palette_change(mask, indices, rule), _is_flat(indices))


def _palette_change(mask: Mask, indices: Values, rule: ForegroundRule) -> str | None:
    same = np.array_equal(mask, _as_first_read(indices, 8, rule))
    return None if same else "the colours of its palette decide, not the order of their indices"


def _is_labelled(used: Values, brightness: Values) -> Mask:
    """Which palette indices are labels, (256,) bool: all but black, or all but 0 if none used is black."""
    if (brightness[used] == 0).any():
        return np.asarray(brightness > 0)
    return np.arange(len(brightness)) > 0


def _by_colours(pixels: NDArray[np.uint8], is_lossy: bool, rule: ForegroundRule) -> MaskReading:
    """The foreground by the brightest channel of ``pixels`` (H, W, 3), because by luminance red is dark."""
    values = pixels.max(axis=-1)
    if rule.source == "auto" and not rule.takes_every_label:
        photo = looks_like_photograph(values, True) if is_lossy else looks_like_colour_photograph(pixels)
        if photo:
            raise _photograph(values)
        flat = _with_thin_shapes(clustered_colours(pixels), pixels) if is_lossy else flat_colours(pixels)
        bright = int((flat.max(axis=-1) > rule.threshold).sum())
        if len(flat) > 2 or bright > 1 or (len(flat) == 2 and not bright):
            names = ", ".join(bytes(colour).hex() for colour in flat[:_SHOWN_VALUES])
            every = _OR_EVERY_ONE if not flat.any(axis=-1).all() else "."
            raise UnclearMask(
                f"looks like a label map (colours {names}) rather than black and white; "
                f"{advice.PICK_COLOUR}{every}"
            )
    mask = values > (0 if rule.takes_every_label else rule.threshold)
    if rule.source == "auto" and mask.all() and not _is_flat(values):
        raise _everywhere(rule)
    note = None
    if not mask.any():
        note = f"no value in it exceeds the threshold {rule.threshold}, so it was read as empty"
    return MaskReading(mask, note)


def _with_thin_shapes(clusters: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A JPEG's only cluster with the colour of what is too thin to form another, such as lines on it."""
    if len(clusters) != 1:
        return clusters
    apart = pixels[(np.abs(pixels.astype(np.int16) - clusters[0]) > _LOSSY_REACH).any(axis=-1)]
    return np.vstack([clusters, np.median(apart, axis=0).astype(np.uint8)]) if len(apart) else clusters


def _grey_values(image: DecodedImage) -> Values | None:
    """The (H, W) values as stored in the file (0 and 1 for a 1-bit file); None for colours."""
    mode = image.pixels.mode
    if image.has_deep_grey:
        return deep_grey_values(image)
    if mode == "1":
        return np.asarray(image.pixels).astype(np.uint8)
    if mode in ("L", "LA", "La"):
        values = np.asarray(image.pixels.getchannel(0))
        # Pillow scales 2 and 4 bits to 0..255.
        return values // np.uint8(255 // (2**image.bits - 1)) if image.bits in (2, 4) else values
    pixels = rgb_pixels(image)
    return np.asarray(pixels[..., 0]) if _are_grey(pixels) else None


def _as_first_read(values: Values, bits: int, rule: ForegroundRule) -> Mask:
    """The mask as read by the first versions, which ignored the values' actual scale or palette."""
    if values.max() <= 1:
        return np.asarray(values == 1)
    white = 65535 if bits > 8 and values.max() > 255 else 255
    return np.asarray(scaled_to_8_bits(values, white) > rule.threshold)


def _was_turned_before(image: DecodedImage) -> bool:
    return image.pixels.format == "TIFF"


def _depth_notes(white: int) -> list[str]:
    if white == 65535:
        return []
    if white == 255:
        return ["its 16-bit values fit 8 bits and were read as 8-bit values"]
    return [f"its highest value needs {white.bit_length()} bits, so {white} was taken for white"]


def _level_notes(levels: Values, rule: ForegroundRule) -> list[str]:
    """A note for three levels: thin lines of a class, such as cell borders, look like a soft edge."""
    if len(levels) != 3:
        return []
    return [f"its grey level {levels[1]} was read by the threshold {rule.threshold}"]


def _label_map(levels: Values) -> UnclearMask:
    return UnclearMask(
        f"looks like a label map (values {_listed(levels)}) rather than black and white; {advice.PICK_LABEL}"
    )


def _everywhere(rule: ForegroundRule) -> UnclearMask:
    return UnclearMask(
        f"is brighter than the threshold {rule.threshold} everywhere and yet differs from pixel to pixel; "
        f"{advice.RAISE_THRESHOLD}, or {advice.PICK_LABEL}"
    )


def _rounded(mend: str) -> UnclearMask:
    return UnclearMask(f"is a JPEG, whose rounded values hold no labels; {mend}")


def _grey_classes(levels: Values, about: str) -> UnclearMask:
    return UnclearMask(
        f"looks like a label map (values {about}{_listed(levels)}) rather than black and white, and a JPEG "
        f"rounds labels; save it as PNG, or {advice.BY_BRIGHTNESS}"
    )


def _photograph(values: Values) -> UnclearMask:
    return UnclearMask(
        f"looks like a photograph ({len(levels_of(values))} levels of brightness) rather than a mask; give "
        "masks (are source and target swapped, or images and masks in one folder?), or "
        f"{advice.BY_BRIGHTNESS}"
    )


def _are_grey(colours: NDArray[np.uint8]) -> bool:
    return bool((colours == colours[..., :1]).all())


def _is_flat(values: Values) -> bool:
    return bool(values.min() == values.max())


def _listed(values: Values) -> str:
    shown = ", ".join(str(value) for value in values[:_SHOWN_VALUES])
    return f"{shown} and {len(values) - _SHOWN_VALUES} more" if len(values) > _SHOWN_VALUES else shown
