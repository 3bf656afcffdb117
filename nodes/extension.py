"""The extension that registers the pack's nodes with the host."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .apply_adapter import ApplySiameseAdapter
from .generate_dataset import GenerateDataset
from .load_checkpoint import LoadSiameseCheckpoint
from .load_masks import LoadMasks
from .preview_pairs import PreviewPairs
from .random_masks import RandomMaskTransform
from .sampler import MaskDiffusionSampler
from .save_pairs import SavePairs
from .train import TrainSiamese


class SiameseExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LoadSiameseCheckpoint,
            ApplySiameseAdapter,
            LoadMasks,
            RandomMaskTransform,
            MaskDiffusionSampler,
            PreviewPairs,
            SavePairs,
            GenerateDataset,
            TrainSiamese,
        ]
