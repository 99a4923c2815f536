"""Principal directions of the within-image covariance: the linear reduction of a probe, which needs no training.

For a linear reduction W, cov(WX) = W cov(X) Wᵀ. Good rows of W are the leading eigenvectors of the covariance that the
pool takes, with the mean of each image removed, averaged over images.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import GCPError

__all__ = [
    "SUBSET",
    "Directions",
    "directions_of",
    "principal_directions",
    "spaced",
    "spectrum",
    "within_image_covariance",
]

SUBSET = 1000
"""Training images in which the principal directions are found."""
_HIGHEST = 64.0
"""What the longest feature vector becomes in float16, which holds a thousand times as much."""


def spaced(count: int) -> list[int]:
    """Numbers of the images in which directions are found: all, or `SUBSET` evenly spaced ones of many."""
    return np.unique(np.linspace(0, count - 1, SUBSET).astype(int)).tolist()


def within_image_covariance(maps: Iterable[Tensor]) -> Tensor:
    """The average over images of the covariance of the channels over the positions of an image.

    Args:
        maps: batches of feature maps ``[B, C, M]``.

    Returns:
        ``[C, C]`` in float64, on the CPU.

    Raises:
        GCPError: there is no map, or one is not finite.
    """
    total, count = None, 0
    for batch in maps:
        x = batch.double().cpu()
        if not x.isfinite().all():
            raise GCPError("The features of some images are not finite; check the images and the weights.")
        x = (x - x.mean(2, keepdim=True)) / x.shape[2] ** 0.5
        wide = x.transpose(0, 1).flatten(1)
        part = wide @ wide.T
        total, count = part if total is None else total + part, count + len(x)
    if total is None:
        raise GCPError("There is no image to find principal directions in.")
    return total / count


def spectrum(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a covariance, largest first.

    Args:
        covariance: ``[C, C]``, symmetric, float64.

    Returns:
        Eigenvalues ``[C]``, and eigenvectors ``[C, C]`` as rows, whose largest entry is positive.

    Raises:
        GCPError: all eigenvalues are zero: the features do not vary within an image.
    """
    values, vectors = torch.linalg.eigh(covariance)
    values, rows = values.flip(0).clamp_min(0), vectors.flip(1).T
    if not values[0] > 0:
        raise GCPError("The features do not vary within any image, so there is no covariance to pool.")
    # The sign of an eigenvector is arbitrary; this one does not depend on the library.
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return values, (rows * largest.sign()).contiguous()


@dataclass(frozen=True)
class Directions:
    """Principal directions, and what belongs to features along them.

    Attributes:
        matrix: the directions, ``[R, C]`` in float32.
        variance: share of the within-image variance along them.
        scale: by which features along them are multiplied before they are stored in float16.
    """

    matrix: Tensor
    variance: float
    scale: float = 1.0

    def __len__(self) -> int:
        return len(self.matrix)


def principal_directions(
    values: Tensor, vectors: Tensor, components: int | None = None, longest: float = 0.0
) -> Directions:
    """The leading eigenvectors.

    Args:
        values: eigenvalues ``[C]``, largest first.
        vectors: eigenvectors ``[C, C]`` as rows.
        components: number of directions, R; None takes 256, or C where that is less.
        longest: largest length of a centred feature vector, for the scale: no component is longer.

    Raises:
        GCPError: more directions than channels, or fewer than one.
    """
    channels = len(values)
    number = min(256, channels) if components is None else components
    if not 1 <= number <= channels:
        raise GCPError(f"`components={number}`: the feature map has {channels} channels; give 1 to {channels}.")
    scale = 2.0 ** math.floor(math.log2(_HIGHEST / longest)) if longest > 0 else 1.0
    return Directions(vectors[:number].float().contiguous(), float(values[:number].sum() / values.sum()), scale)


def directions_of(maps: Iterable[Tensor], components: int | None = None) -> Directions:
    """The principal directions of feature maps.

    Args:
        maps: batches of maps ``[B, C, M]``.
        components: as in `principal_directions`.

    Raises:
        GCPError: as `within_image_covariance`, `spectrum` and `principal_directions`.
    """
    return principal_directions(*spectrum(within_image_covariance(maps)), components)
