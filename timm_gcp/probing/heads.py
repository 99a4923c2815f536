"""Heads of a probe: first-order vectors and triangles, their kernels, and their weights as one linear layer."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..functional import pool_features
from .classifiers import Fit, centred
from .directions import Directions
from .features import FeatureSet

__all__ = ["FittedHead", "Head", "Kernel", "kernel_of", "linear_layer", "scores_of", "triangle_scaling"]

_CHUNK = 512
"""Rows whose triangles are computed at a time."""
IN_MEMORY = 4 * 2**30
"""Bytes of features that are kept in memory; larger ones lie in a temporary file beside the cache."""
_COLUMNS = 4096
"""Columns of the features that are multiplied at a time."""


_FIRST_ORDER = ("mean", "token")
"""Parts that are vectors of the map's own channels; every other part is the triangle of a method."""


@dataclass(frozen=True)
class Head:
    """Parts side by side, each divided by the root of its mean squared length and multiplied by its weight.

    Attributes:
        title: in the table.
        parts: 'mean', 'token' or the name of a method; first order first.
        weights: of the parts.
    """

    title: str
    parts: tuple[str, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class FittedHead:
    """The head of a probe.

    Attributes:
        directions: principal directions.
        method: method of the covariance's root.
        first_order: 'mean', 'class' or None.
        weights: of the linear layer on the first-order vector and the triangle, ``[classes, D]``.
        bias: ``[classes]``; the layer gives logits.
    """

    directions: Directions
    method: str
    first_order: str | None
    weights: Tensor
    bias: Tensor


def triangle_scaling(size: int) -> Tensor:
    """Factors of the entries of a triangle that make its inner product that of the whole matrices."""
    rows, columns = torch.triu_indices(size, size)
    return torch.where(rows == columns, 1.0, 2.0**0.5)


def _chunks(cache: FeatureSet, part: str) -> Iterator[tuple[slice, Tensor]]:
    """The features of a part, some rows at a time, as the pool gives them."""
    if part in _FIRST_ORDER:
        yield slice(0, cache.rows), cache.first(part)
        return
    for start in range(0, cache.rows, _CHUNK):
        stop = min(start + _CHUNK, cache.rows)
        yield slice(start, stop), pool_features(cache.maps(start, stop), part)


def _empty(cache: FeatureSet, width: int) -> Tensor:
    """Room for the features of all rows: in memory, or in a file without a name where they are large."""
    if 4 * cache.rows * width <= IN_MEMORY:
        return torch.empty(cache.rows, width)
    file = tempfile.TemporaryFile(dir=cache.folder)  # noqa: SIM115  the map keeps it open
    return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=(cache.rows, width)))


class Kernel:
    """The features of a part over the training rows, and their kernel.

    Attributes:
        features: ``[rows, D]`` in float32, centred, with the entries off the diagonal times √2.
        mean: ``[D]``, what was taken away.
        scaling: ``[D]``.
        matrix: ``[rows, rows]`` in float64, divided by its mean diagonal.
        factor: by which it was divided.
    """

    def __init__(self, cache: FeatureSet, part: str) -> None:
        features: Tensor | None = None
        for rows, chunk in _chunks(cache, part):
            if features is None:
                features = _empty(cache, chunk.shape[1])
                first = part in _FIRST_ORDER
                self.scaling = torch.ones(chunk.shape[1]) if first else triangle_scaling(cache.components)
            features[rows] = chunk * self.scaling
        assert features is not None
        self.mean = features.double().mean(0).float()
        self.features = features.sub_(self.mean)
        matrix = torch.zeros(cache.rows, cache.rows, dtype=torch.float64)
        for columns in self.features.split(_COLUMNS, 1):
            matrix += (columns @ columns.T).double()
        matrix = centred(matrix)
        self.factor = float(matrix.diagonal().mean()) or 1.0
        self.matrix = matrix / self.factor

    def weights(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """The linear layer on what the pool gives that equals the dual coefficients.

        Args:
            coefficients: ``[rows, classes]``.

        Returns:
            Weights ``[classes, D]`` and the bias that stands for the mean, ``[classes]``; float64.
        """
        weights = torch.cat([coefficients.T @ columns.double() for columns in self.features.split(_COLUMNS, 1)], 1)
        weights = weights / self.factor
        bias = -weights @ self.mean.double()
        return weights * self.scaling.double(), bias


def kernel_of(head: Head, kernels: dict[str, Kernel]) -> Tensor:
    """The kernel of a head: the weighted sum of those of its parts."""
    total = torch.zeros_like(kernels[head.parts[0]].matrix)
    for part, weight in zip(head.parts, head.weights, strict=True):
        total += weight * kernels[part].matrix
    return total


def linear_layer(head: Head, kernels: dict[str, Kernel], fit: Fit) -> tuple[Tensor, Tensor]:
    """The classifier of a head as one linear layer on its parts side by side, as the pool gives them.

    Returns:
        Weights ``[classes, D]`` and bias ``[classes]``, float64.
    """
    weights, bias = [], fit.intercept.clone()
    for part, weight in zip(head.parts, head.weights, strict=True):
        own, shift = kernels[part].weights(weight * fit.coefficients)
        weights.append(own)
        bias += shift
    return torch.cat(weights, 1), bias


def scores_of(cache: FeatureSet, head: Head, weights: Tensor, bias: Tensor) -> Tensor:
    """Scores of the images of a cache by a linear layer, averaged over the views; ``[images, classes]``."""
    scores = bias.repeat(cache.rows, 1)
    start = 0
    for part in head.parts:
        width = 0
        for rows, chunk in _chunks(cache, part):
            width = chunk.shape[1]
            scores[rows] += chunk.double() @ weights[:, start : start + width].T
        start += width
    return scores.view(cache.images, cache.views, -1).mean(1)
