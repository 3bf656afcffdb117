"""Losses of segmentation networks, on logits (B, 1, H, W) and masks (B, 1, H, W) of 0 and 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_EDGE_WINDOW = 31  # px
_EDGE_WEIGHT = 5.0

_TEMPERATURE, _BASE_TEMPERATURE = 0.1, 0.07
_MOST_ANCHORS = 1024  # per batch
_MOST_VIEWS = 100  # most pixels per class and image


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 - (2 |P and M| + 1) / (|P| + |M| + 1), for probabilities P and masks M, averaged over images: 0-d."""
    probabilities = logits.sigmoid()
    both = (probabilities * masks).sum(dim=(1, 2, 3))
    total = (probabilities + masks).sum(dim=(1, 2, 3))
    return (1 - (2 * both + 1) / (total + 1)).mean()


def bce_dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy plus :func:`dice_loss`: 0-d."""
    return F.binary_cross_entropy_with_logits(logits, masks) + dice_loss(logits, masks)


def structure_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Weighted cross-entropy plus weighted IoU loss, averaged over the images: 0-d.

    The weight of a pixel is 1 + 5 |mean of the mask in the surrounding 31 x 31 window - mask|, which
    emphasises outlines and small lesions (F3Net, AAAI 2020; also used by PraNet and its successors). By a
    wrong argument, their published code does not weight the cross-entropy; here it is weighted, as in the
    papers.
    """
    around = F.avg_pool2d(masks, _EDGE_WINDOW, stride=1, padding=_EDGE_WINDOW // 2)
    weights = 1 + _EDGE_WEIGHT * (around - masks).abs()
    errors = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    cross_entropy = (weights * errors).sum(dim=(1, 2, 3)) / weights.sum(dim=(1, 2, 3))
    probabilities = logits.sigmoid()
    both = (weights * probabilities * masks).sum(dim=(1, 2, 3))
    total = (weights * (probabilities + masks)).sum(dim=(1, 2, 3))
    iou = (both + 1) / (total - both + 1)
    return (cross_entropy + 1 - iou).mean()


def pixel_contrast_loss(embeddings: Tensor, logits: Tensor, masks: Tensor) -> Tensor:
    """Supervised contrastive loss between the embeddings of lesion and background pixels of a batch: 0-d.

    ``embeddings`` (B, D, h, w) have unit length and cover the image at any scale. At most 100 pixels per
    class and image are drawn from PyTorch's global generator, half of them misclassified by ``logits``;
    classes with at most 100 pixels in an image are left out. Each drawn pixel is attracted to those of its
    class and repelled by the others in the whole batch, at temperature 0.1 ("Exploring Cross-Image Pixel
    Contrast for Semantic Segmentation", ICCV 2021, as used by CTNet). The loss is 0 if only one class was
    drawn.
    """
    anchors, labels = _draw_anchors(embeddings.float(), logits.detach() > 0, masks > 0.5)
    same = labels[:, None] == labels
    if same.all():
        return embeddings.sum() * 0
    similarity = anchors @ anchors.T / _TEMPERATURE
    negatives = similarity.masked_fill(same, -torch.inf).logsumexp(dim=1, keepdim=True)
    log_probability = similarity - torch.logaddexp(similarity, negatives)
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    mean = (log_probability * positive).sum(dim=1) / positive.sum(dim=1)
    return -(_TEMPERATURE / _BASE_TEMPERATURE) * mean.mean()


def _draw_anchors(embeddings: Tensor, found: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings (N, D) of the drawn pixels, and whether each is a lesion pixel, (N,) bool."""
    groups = [
        (index, label, pixels)
        for index, mask in enumerate(masks.flatten(1))
        for label in (False, True)
        if len(pixels := (mask == label).nonzero().squeeze(1)) > _MOST_VIEWS
    ]
    # At least two, because a single pixel would have no positive partner.
    views = max(2, min(_MOST_VIEWS, _MOST_ANCHORS // max(1, len(groups))))
    wrong = (found != masks).flatten(1)
    anchors = [embeddings.new_zeros(0, embeddings.shape[1])]
    for index, _, pixels in groups:
        chosen = _half_of_them_wrong(pixels, wrong[index, pixels], views)
        anchors.append(_embeddings_at(embeddings[index], chosen, masks.shape[-2:]))
    labels = torch.tensor([label for _, label, _ in groups], dtype=torch.bool, device=masks.device)
    return torch.cat(anchors), labels.repeat_interleave(views)


def _half_of_them_wrong(pixels: Tensor, wrong: Tensor, count: int) -> Tensor:
    """Draw ``count`` of ``pixels``, half of them ``wrong`` ones or as close to half as possible."""
    order = torch.randperm(len(pixels), device=pixels.device)
    pixels, wrong = pixels[order], wrong[order]
    hard, easy = pixels[wrong], pixels[~wrong]
    hard_count = min(len(hard), max(count // 2, count - len(easy)))
    return torch.cat([hard[:hard_count], easy[: count - hard_count]])


def _embeddings_at(embeddings: Tensor, pixels: Tensor, size: torch.Size) -> Tensor:
    """Values (N, D) at flat indices ``pixels`` of ``embeddings`` (D, h, w) resized bilinearly to ``size``.

    Only these points are computed, because the map at full size would take 100 times the memory.
    """
    height, width = size
    rows, columns = pixels // width, pixels % width
    points = torch.stack([2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1], dim=-1)
    grid = points[None, None].to(embeddings.dtype)
    return F.grid_sample(embeddings[None], grid, align_corners=True)[0, :, 0].T
