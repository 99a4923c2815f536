"""Heads of a probe: first-order vectors and triangles, their kernels, and their weights as one linear layer."""

import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .classifiers import Fit, centred
from .directions import Directions
from .features import FeatureSet
from .parts import CPU, Part

__all__ = ["FittedHead", "Head", "Kernel", "kernel_of", "linear_layer", "scores_of"]

IN_MEMORY = 4 * 2**30
"""Bytes of features that are kept in memory; larger ones lie in a temporary file beside the cache."""
_COLUMNS = 4096
"""Columns of the features that are multiplied at a time."""


@dataclass(frozen=True)
class Head:
    """Parts side by side, each divided by the root of its mean squared length and multiplied by its weight.

    Attributes:
        title: in the table.
        parts: first order first.
        weights: of the parts.
    """

    title: str
    parts: tuple[Part, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class FittedHead:
    """The head of a probe.

    Attributes:
        directions: principal directions.
        method: method of the covariance's root.
        first_order: 'mean', 'class', 'mean+class' or None.
        weights: of the linear layer on the first-order vector and the triangle, ``[classes, D]``.
        bias: ``[classes]``; the layer gives logits.
    """

    directions: Directions
    method: str
    first_order: str | None
    weights: Tensor
    bias: Tensor

    @property
    def pool_args(self) -> dict[str, Any]:
        """Arguments of ``graft`` for the pool, besides the method."""
        return {"reduce": len(self.directions), "reduction": "linear", "first_order": self.first_order}

    def fill(self, pool: Any) -> None:
        """Sets the weights of the pool: the directions, where it has a reduction.

        Args:
            pool: of a grafted model.
        """
        if not isinstance(pool.reduce, nn.Identity):
            pool.reduce.conv.weight.copy_(self.directions.matrix.view_as(pool.reduce.conv.weight))


def _empty(cache: FeatureSet, width: int) -> Tensor:
    """Room for the features of all rows: in memory, or in a file without a name where they are large."""
    if 4 * cache.rows * width <= IN_MEMORY:
        return torch.empty(cache.rows, width)
    file = tempfile.TemporaryFile(dir=cache.folder)  # noqa: SIM115  the map keeps it open
    return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=(cache.rows, width)))


class Kernel:
    """The features of a part over the training rows, and their kernel.

    Attributes:
        features: ``[rows, D]`` in float32, scaled and centred.
        mean: ``[D]``, what was taken away.
        scaling: ``[D]``.
        matrix: ``[rows, rows]`` in float64, divided by its mean diagonal.
        factor: by which it was divided.

    Args:
        cache: features of the training images.
        part: whose vectors are taken.
        device: where they are computed and multiplied; `matrix` lies there, the features on the CPU.
    """

    def __init__(self, cache: FeatureSet, part: Part, device: torch.device = CPU) -> None:
        self.scaling = part.scaling(cache)
        features = _empty(cache, len(self.scaling))
        for rows, vectors in part.vectors(cache, device):
            features[rows] = vectors.cpu() * self.scaling
        # In blocks: features of many images are a file, which a float64 copy would bring into memory.
        self.mean = torch.cat([block.double().mean(0) for block in features.split(_COLUMNS, 1)]).float()
        self.features = features.sub_(self.mean)
        matrix = torch.zeros(cache.rows, cache.rows, dtype=torch.float64, device=device)
        for block in self.features.split(_COLUMNS, 1):
            columns = block.to(device)
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
        device = self.matrix.device
        dual = coefficients.T.to(device)
        blocks = (block.to(device).double() for block in self.features.split(_COLUMNS, 1))
        weights = torch.cat([(dual @ columns).cpu() for columns in blocks], 1) / self.factor
        bias = -weights @ self.mean.double()
        return weights * self.scaling.double(), bias


def kernel_of(head: Head, kernels: dict[Part, Kernel]) -> Tensor:
    """The kernel of a head: the weighted sum of those of its parts."""
    total = torch.zeros_like(kernels[head.parts[0]].matrix)
    for part, weight in zip(head.parts, head.weights, strict=True):
        total += weight * kernels[part].matrix
    return total


def linear_layer(head: Head, kernels: dict[Part, Kernel], fit: Fit) -> tuple[Tensor, Tensor]:
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


def scores_of(cache: FeatureSet, head: Head, weights: Tensor, bias: Tensor, device: torch.device = CPU) -> Tensor:
    """Scores of the images of a cache by a linear layer, averaged over the views; ``[images, classes]``.

    Args:
        cache: features of the images.
        head: what the layer is applied to.
        weights: ``[classes, D]``, float64.
        bias: ``[classes]``.
        device: where the features are pooled.
    """
    scores = bias.repeat(cache.rows, 1)
    start = 0
    for part in head.parts:
        width = 0
        for rows, vectors in part.vectors(cache, device):
            width = vectors.shape[1]
            scores[rows] += vectors.cpu().double() @ weights[:, start : start + width].T
        start += width
    return scores.view(cache.images, cache.views, -1).mean(1)
