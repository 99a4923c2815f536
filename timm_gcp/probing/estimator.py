"""Covariance pooling of given feature maps as a scikit-learn transformer."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ..errors import GCPError
from ..functional import pool_features
from ..methods import covariance_method
from .directions import directions_of
from .parts import triangle_scaling

__all__ = ["CovariancePooling"]

_BATCH = 256


class CovariancePooling(TransformerMixin, BaseEstimator):
    """Feature maps → the triangle of the root of their covariance along principal directions.

    For features that you have already, of any network. Use it in a ``Pipeline`` before a linear classifier.

    scikit-learn's ``check_estimator`` passes two-dimensional arrays, which are no feature maps, so it does not apply.
    ``clone``, ``get_params``, ``set_params``, ``Pipeline`` and pickling work.

    Args:
        n_components: principal directions, R; None takes 256, or all channels where there are fewer.
        method: a name of ``timm_gcp.METHODS`` that is a function of the covariance.

    Attributes:
        components_: principal directions, ``[R, C]``.
        explained_variance_ratio_: share of the variance within images along them.
        n_features_in_: channels, C.

    Example::

        pipeline = make_pipeline(CovariancePooling(128), RidgeClassifierCV())
        pipeline.fit(maps, labels)  # [N, C, H, W], or tokens [N, L, C]
    """

    def __init__(self, n_components: int | None = None, method: str = "isqrt") -> None:
        self.n_components = n_components
        self.method = method

    def fit(self, X: Any, y: Any = None) -> "CovariancePooling":
        """Finds the principal directions of the within-image covariance.

        Args:
            X: maps ``[N, C, H, W]`` or tokens ``[N, L, C]``; an array or a tensor.
            y: not used.

        Raises:
            GCPError: another number of dimensions, a single position, values that are not finite, more components than
                channels, or a method that is no function of the covariance.
        """
        covariance_method(self.method)
        directions = directions_of(_batches(X), self.n_components)
        self.components_: NDArray[np.float32] = directions.matrix.numpy()
        self.explained_variance_ratio_ = directions.variance
        self.n_features_in_ = directions.matrix.shape[1]
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """The triangles, row by row, with the entries off the diagonal times √2.

        So the inner product of two rows is that of the two symmetric matrices.

        Args:
            X: as in `fit`.

        Returns:
            ``[N, R(R+1)/2]`` in float32.

        Raises:
            GCPError: as `fit`, or another number of channels.
        """
        check_is_fitted(self)
        directions = torch.from_numpy(self.components_)
        scaling = triangle_scaling(len(directions))
        rows = []
        for maps in _batches(X):
            if maps.shape[1] != directions.shape[1]:
                raise GCPError(f"CovariancePooling was fitted to {directions.shape[1]} channels, not {maps.shape[1]}.")
            centred = maps - maps.mean(2, keepdim=True)
            rows.append(pool_features(directions @ centred, self.method) * scaling)
        return torch.cat(rows).numpy()

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the output: the pair of directions of each entry.

        Args:
            input_features: not used.
        """
        check_is_fitted(self)
        rows, columns = np.triu_indices(len(self.components_))
        return np.asarray([f"covariance{i}_{j}" for i, j in zip(rows, columns, strict=True)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags


def _batches(features: Any) -> Iterator[Tensor]:
    """Maps ``[B, C, M]`` in float32, some images at a time."""
    dimensions = getattr(features, "ndim", 0)
    if dimensions not in (3, 4):
        raise GCPError(
            f"CovariancePooling takes maps [N, C, H, W] or tokens [N, L, C], not an input of {dimensions} dimensions."
        )
    for start in range(0, len(features), _BATCH):
        batch = torch.as_tensor(features[start : start + _BATCH]).float()
        maps = batch.flatten(2) if dimensions == 4 else batch.mT
        if maps.shape[2] < 2:
            raise GCPError("A map of a single position has no covariance.")
        if not maps.isfinite().all():
            raise GCPError(f"Features of images {start} to {start + len(batch) - 1} are not finite.")
        yield maps
