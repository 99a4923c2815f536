"""Methods that depend on a scalar of Σ: a floor under the eigenvalues, or a factor in front of the root.

Each has a function of centred features ``[..., C, M]`` and one of Σ ``[..., C, C]``. The scalar is differentiated by
autograd, through the input itself or through the eigenvalues that ``spectral_function`` returns beside the matrix.
Arguments that all of them share:

- ``share``: δ as a share of the mean eigenvalue;
- ``unit``: ``[..., 1, 1]``, float64, by which the features have been divided (Σ by its square);
- ``matmul_dtype``: precision of the matrix products, as in ``of_features``.
"""

import torch
from torch import Tensor

from . import loewner
from .covariance import trace_of
from .spectral_function import EXACT_ROOT, Elementwise, of_features, of_sigma

_SHIFTED_ROOT = Elementwise(lambda t: t / ((1 + t).sqrt() + 1), loewner.shifted_root)
_SHIFTED_LOG = Elementwise(torch.log1p, loewner.shifted_log)


def _floor(trace: Tensor, channels: int, share: float) -> tuple[Tensor, Tensor]:
    """δ, ``[..., 1, 1]``, one where Σ = 0; and a mask of the matrices that are zero."""
    empty = trace <= 0
    return (share / channels * trace).masked_fill(empty, 1), empty


def _trace_of_features(x: Tensor) -> Tensor:
    return x.square().sum((-2, -1), keepdim=True)


def regularised_root_of_features(x: Tensor, share: float, matmul_dtype: torch.dtype | None = None) -> Tensor:
    """√(Σ + δ) − √δ of features: close to the root where λ ≫ δ, smooth at zero where the root has a kink.

    It is √δ g(Σ/δ) with g(t) = √(1 + t) − 1, so the features are divided by √δ, and g has no parameters.
    """
    delta = _floor(_trace_of_features(x), x.shape[-2], share)[0].sqrt()
    root = of_features(x / delta, _SHIFTED_ROOT, matmul_dtype)[0]
    return delta.to(root.dtype) * root


def regularised_root_of_sigma(sigma: Tensor, share: float) -> Tensor:
    """√(Σ + δ) − √δ of a given Σ."""
    delta = _floor(trace_of(sigma), sigma.shape[-1], share)[0]
    return delta.sqrt() * of_sigma(sigma / delta, _SHIFTED_ROOT)[0]


def _with_level(log: Tensor, delta: Tensor, empty: Tensor, unit: Tensor) -> Tensor:
    """log(1 + Σ/δ) + log(unit² δ) I; zero for a zero matrix."""
    level = (delta.log() + 2 * unit.log()).to(log.dtype).masked_fill(empty, 0)
    return log + level * torch.eye(log.shape[-1], dtype=log.dtype, device=log.device)


def regularised_log_of_features(
    x: Tensor, share: float, unit: Tensor, matmul_dtype: torch.dtype | None = None
) -> Tensor:
    """log(Σ + δ) of features. The logarithm needs a floor.

    DeepO2P adds an absolute 10⁻³; a share of the mean eigenvalue keeps the law log(c²Σ) = log Σ + 2 log c · I.
    """
    delta, empty = _floor(_trace_of_features(x), x.shape[-2], share)
    return _with_level(of_features(x / delta.sqrt(), _SHIFTED_LOG, matmul_dtype)[0], delta, empty, unit)


def regularised_log_of_sigma(sigma: Tensor, share: float, unit: Tensor) -> Tensor:
    """log(Σ + δ) of a given Σ."""
    delta, empty = _floor(trace_of(sigma), sigma.shape[-1], share)
    return _with_level(of_sigma(sigma / delta, _SHIFTED_LOG)[0], delta, empty, unit)


def _balance(eigenvalues: Tensor, unit: Tensor) -> Tensor:
    """1 + ‖√Σ exp(−Σ)‖_F, ``[..., 1, 1]``, for eigenvalues that have been divided by unit²."""
    true = eigenvalues * unit.to(eigenvalues.dtype).square().squeeze(-1)
    small = true < 700  # beyond, exp(−2λ) is zero in float64
    squares = torch.where(small, true, 0) * torch.exp(-2 * torch.where(small, true, 0))
    total = squares.sum(-1)[..., None, None]
    return 1 + torch.where(total > 0, total, 1).sqrt() * (total > 0)


def balanced_root_of_features(x: Tensor, unit: Tensor, matmul_dtype: torch.dtype | None = None) -> Tensor:
    """SEB of features: (1 + ‖√Σ exp(−Σ)‖_F) √Σ. It depends on the scale of Σ, so it is not homogeneous."""
    root, eigenvalues = of_features(x, EXACT_ROOT, matmul_dtype)
    return _balance(eigenvalues, unit).to(root.dtype) * root


def balanced_root_of_sigma(sigma: Tensor, unit: Tensor) -> Tensor:
    """SEB of a given Σ."""
    root, eigenvalues = of_sigma(sigma, EXACT_ROOT)
    return _balance(eigenvalues, unit) * root
