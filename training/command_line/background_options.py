"""The flags for generating lesions into real frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from siamese_core.dataset_generation.background_frames import FrameFiles, find_frames, frame_folder
from siamese_core.masks.folder_contents import Tell, left_out
from siamese_core.method.background_blending import DEFAULT_BLEND, MOST_BLEND
from siamese_core.settings import Range, option

BLEND = Range(0, MOST_BLEND)


@dataclass(frozen=True)
class BackgroundOptions:
    """Settings for real frames around the masks."""

    backgrounds: Path | None = option(
        None,
        "folder of real frames without a finding; a hash of seed and i chooses the frame for pair i, whose "
        "image equals that frame, pixel for pixel, outside the mask and the blend",
    )
    blend: int = option(
        DEFAULT_BLEND,
        "width in pixels of the rim around the mask where the generated image blends into the frame",
        BLEND,
    )

    def read_frames(self, tell: Tell) -> FrameFiles | None:
        """Find and check all frames; None if the flag is not given. Raises FrameError and PairError."""
        if self.backgrounds is None:
            return None
        found = find_frames(self.backgrounds)
        for phrase in left_out(frame_folder(self.backgrounds)):
            tell(f"not read in '{frame_folder(self.backgrounds)}': {phrase}")
        with tqdm(total=len(found), desc="reading frames", unit="frame", delay=2.0, leave=False) as progress:
            frames = FrameFiles(found, lambda path: progress.update())
        for told in frames.notes:
            tell(told)
        return frames
