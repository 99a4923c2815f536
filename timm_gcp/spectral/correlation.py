"""The root of the correlation matrix D^−½ Σ D^−½, D = diag Σ: Σ with the scale of every channel divided out.

A constant channel has no correlation with any other: its row and column are zero, diagonal included, where that of
every other channel is one before the root. Its gradient is zero too. At variance zero the function is not continuous:
the smaller the standard deviation of a channel, the larger its gradient, which grows like its inverse.
"""

import torch
from torch import Tensor

from .covariance import symmetric, to_unit_norm
from .polar import hermitian_factor
from .spectral_function import EXACT_ROOT, of_features, of_sigma


def correlation_root_of_features(x: Tensor, matmul_dtype: torch.dtype | None = None) -> Tensor:
    """The root of the correlation matrix of features: the root of Σ after each channel is divided by its deviation.

    Args:
        x: centred features ``[..., C, M]``, float32 or float64.
        matmul_dtype: precision of the matrix products, as in ``of_features``.

    Returns:
        ``[..., C, C]``, symmetric. Differentiable once.
    """
    return of_features(to_unit_norm(x, (-1,)), EXACT_ROOT, matmul_dtype)[0]


def correlation_root_of_sigma(sigma: Tensor) -> Tensor:
    """The root of the correlation matrix of a given Σ, ``[..., C, C]``. Only its symmetric part counts."""
    sigma = symmetric(sigma)
    variance = sigma.diagonal(dim1=-2, dim2=-1)
    constant = variance <= 0
    deviation = torch.where(constant, 1, variance).sqrt()
    correlation = sigma / deviation.unsqueeze(-1) / deviation.unsqueeze(-2)
    correlation = correlation.masked_fill(constant.unsqueeze(-1) | constant.unsqueeze(-2), 0)
    return of_sigma(correlation, EXACT_ROOT)[0]


def correlation_root_eigenfree(x: Tensor) -> Tensor:
    """The value of ``correlation_root_of_features`` without an eigensolver."""
    return hermitian_factor(to_unit_norm(x, (-1,)))
