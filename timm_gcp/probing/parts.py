"""Parts of a head: first-order vectors and covariance pools, computed from stored features."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..map_pool import at_common_length
from ..methods import get_method
from ..pool_options import PoolOptions
from ..pooling import GlobalCovariancePool
from .features import FeatureSet

__all__ = ["CPU", "MEAN", "TOKEN", "CovariancePart", "FirstOrderPart", "Part", "first_order_parts", "triangle_scaling"]

CPU = torch.device("cpu")
_ROWS = 512
"""Rows that are pooled at a time."""


class Part(Protocol):
    """A vector for every row of a set of features."""

    def vectors(self, features: FeatureSet, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
        """The vectors of some rows at a time, ``[rows, D]`` on the device, as the pool of the model gives them."""

    def scaling(self, features: FeatureSet) -> Tensor:
        """Factors ``[D]`` that give the vectors the inner product that the classifier takes."""


@dataclass(frozen=True)
class FirstOrderPart:
    """A first-order vector.

    Attributes:
        name: 'mean' or 'token'.
        title: in the table.
        normalized: whether the pool scales its parts to one length (``normalize_parts``).
    """

    name: str
    title: str
    normalized: bool = False

    def vectors(self, features: FeatureSet, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
        """See `Part`."""
        vectors = features.first(self.name).to(device)
        yield slice(0, features.rows), at_common_length(vectors) if self.normalized else vectors

    def scaling(self, features: FeatureSet) -> Tensor:
        """See `Part`."""
        return torch.ones(features.first(self.name).shape[1])


MEAN, TOKEN = FirstOrderPart("mean", "mean"), FirstOrderPart("token", "class token")


def first_order_parts(first_order: str | None, normalized: bool = False) -> tuple[FirstOrderPart, ...]:
    """The vectors of a value of ``first_order``, in the order in which the pool gives them.

    Args:
        first_order: 'mean', 'class', 'mean+class' or None.
        normalized: whether the pool scales its parts to one length.
    """
    parts = [{"mean": MEAN, "class": TOKEN}[name] for name in PoolOptions(first_order=first_order).first_order_parts]
    return tuple(replace(part, normalized=normalized) for part in parts)


@dataclass(frozen=True)
class CovariancePart:
    """The output of a covariance pool on the features along the principal directions.

    Attributes:
        method: a name of ``timm_gcp.METHODS``.
        method_args: its arguments, as pairs of name and value.
        groups, count_sketch, normalize_parts: as `GlobalCovariancePool` takes them.
    """

    method: str
    method_args: tuple[tuple[str, Any], ...] = ()
    groups: int = 1
    count_sketch: int | None = None
    normalize_parts: bool = False

    @torch.inference_mode()
    def vectors(self, features: FeatureSet, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
        """See `Part`."""
        pool = GlobalCovariancePool(
            features.components,
            self.method,
            reduce=None,
            method_args=dict(self.method_args),
            groups=self.groups,
            count_sketch=self.count_sketch,
            normalize_parts=self.normalize_parts,
        ).to(device)
        for start in range(0, features.rows, _ROWS):
            stop = min(start + _ROWS, features.rows)
            yield slice(start, stop), pool(features.maps(start, stop).to(device).unsqueeze(3))

    def scaling(self, features: FeatureSet) -> Tensor:
        """See `Part`. A sketch has the factors of the triangle in it."""
        if self.count_sketch is not None:
            return torch.ones(self.count_sketch)
        width = get_method(self.method).width(features.components // self.groups, **dict(self.method_args))
        size = (math.isqrt(8 * width + 1) - 1) // 2  # that of `gaussian` is one larger than the number of channels
        return triangle_scaling(size).repeat(self.groups)


def triangle_scaling(size: int) -> Tensor:
    """Factors of the entries of a triangle that make its inner product that of the whole matrices."""
    rows, columns = torch.triu_indices(size, size)
    return torch.where(rows == columns, 1.0, 2.0**0.5)
