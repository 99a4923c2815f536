"""Batches of images with any number of labels, whose targets are vectors of zeros and ones, also for mixed images.

timm 1.0.28, the oldest that is supported, knows labels only. Here it sees the place of an image in the batch as its
label. Then its mixed targets are the shares of the images in one another, which mix any targets.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.data import Mixup
from timm.data.loader import fast_collate
from torch import Tensor

from .worker_mixup import WorkerMixup

__all__ = ["MultiLabelMixup", "MultiLabelWorkerMixup", "collate_multi_label"]

Samples = Sequence[tuple[Any, Tensor]]


def collate_multi_label(batch: Samples) -> tuple[Tensor, Tensor]:
    """timm's batch of images for its prefetcher, with targets ``[B, K]``."""
    images, _ = fast_collate([(image, 0) for image, _ in batch])
    return images, _targets(batch)


def _targets(batch: Samples) -> Tensor:
    return torch.stack([target for _, target in batch])


class MultiLabelWorkerMixup(WorkerMixup):
    """timm's mixing collation, of targets ``[B, K]``: yᵢ becomes λ yᵢ + (1 − λ) yⱼ.

    Args:
        batch_size: images per batch.
        **settings: those of timm's ``Mixup``, without ``num_classes`` and ``label_smoothing``.
    """

    def __init__(self, batch_size: int, **settings: Any) -> None:
        super().__init__(num_classes=batch_size, label_smoothing=0.0, **settings)

    def __call__(self, batch: Samples, _: Any = None) -> tuple[Tensor, Tensor]:
        """Mixes a batch."""
        images, shares = super().__call__([(image, place) for place, (image, _) in enumerate(batch)])
        targets = _targets(batch)
        return images, shares.to(targets.dtype) @ targets  # timm 1.0.28 mixes by half in float64


class MultiLabelMixup(Mixup):
    """timm's mixing of a batch on the device, of targets ``[B, K]``.

    Args:
        batch_size: images per batch.
        **settings: as `MultiLabelWorkerMixup`.
    """

    def __init__(self, batch_size: int, **settings: Any) -> None:
        super().__init__(num_classes=batch_size, label_smoothing=0.0, **settings)

    def __call__(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes a batch."""
        images, shares = super().__call__(x, torch.arange(len(x), device=x.device))
        return images, shares.to(target.dtype) @ target
