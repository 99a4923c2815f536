"""Methods in which a scalar of Σ enters: a floor under the eigenvalues, a factor before the root.

Each is a pair of functions, of centred features ``[..., C, M]`` and of Σ ``[..., C, C]``. The scalar is differentiated
by autograd, through the input itself or through the eigenvalues that ``function`` gives beside the matrix.
"""

import torch
from torch import Tensor

from . import loewner
from .spectral_function import EXACT_ROOT, Elementwise, of_features, of_sigma

_SHIFTED_ROOT = Elementwise(lambda t: t / ((1 + t).sqrt() + 1), loewner.shifted_root)
_SHIFTED_LOG = Elementwise(torch.log1p, loewner.shifted_log)


def _floor(trace: Tensor, channels: int, share: float) -> tuple[Tensor, Tensor]:
    """δ, a share of the mean eigenvalue, ``[..., 1, 1]``, one where Σ = 0, and where that is."""
    empty = trace <= 0
    return (share / channels * trace).masked_fill(empty, 1), empty


def _trace_of_features(x: Tensor) -> Tensor:
    return x.square().sum((-2, -1), keepdim=True)


def _trace_of_sigma(sigma: Tensor) -> Tensor:
    return sigma.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]


def _root_of_features(x: Tensor, share: float = 0.1, *, products: torch.dtype | None = None) -> Tensor:
    delta = _floor(_trace_of_features(x), x.shape[-2], share)[0].sqrt()
    root = of_features(x / delta, _SHIFTED_ROOT, products)[0]
    return delta.to(root.dtype) * root


def _root_of_sigma(sigma: Tensor, share: float = 0.1) -> Tensor:
    delta = _floor(_trace_of_sigma(sigma), sigma.shape[-1], share)[0]
    return delta.sqrt() * of_sigma(sigma / delta, _SHIFTED_ROOT)[0]


regularised_root = (_root_of_features, _root_of_sigma)
"""√(λ + δ) − √δ, δ = share · mean eigenvalue: close to the root where λ ≫ δ, smooth at zero where the root has a kink.

It is √δ g(Σ/δ) with g(t) = √(1 + t) − 1, so the features are divided by √δ and one function without parameters is left.
"""


def _with_floor(log: Tensor, delta: Tensor, empty: Tensor, unit: Tensor) -> Tensor:
    """log(1 + Σ/δ) + log(unit² δ) I; zero for a zero matrix."""
    level = (delta.log() + 2 * unit.log()).to(log.dtype).masked_fill(empty, 0)
    return log + level * torch.eye(log.shape[-1], dtype=log.dtype, device=log.device)


def _log_of_features(x: Tensor, share: float = 1e-3, *, unit: Tensor, products: torch.dtype | None = None) -> Tensor:
    delta, empty = _floor(_trace_of_features(x), x.shape[-2], share)
    return _with_floor(of_features(x / delta.sqrt(), _SHIFTED_LOG, products)[0], delta, empty, unit)


def _log_of_sigma(sigma: Tensor, share: float = 1e-3, *, unit: Tensor) -> Tensor:
    delta, empty = _floor(_trace_of_sigma(sigma), sigma.shape[-1], share)
    return _with_floor(of_sigma(sigma / delta, _SHIFTED_LOG)[0], delta, empty, unit)


regularised_log = (_log_of_features, _log_of_sigma)
"""log(λ + δ), δ = share · mean eigenvalue: the logarithm needs a floor. DeepO2P adds an absolute 10⁻³; a share keeps
the law log(c²Σ) = log Σ + 2 log c · I."""


def _balance(eigenvalues: Tensor, unit: Tensor) -> Tensor:
    """1 + ‖√Σ exp(−Σ)‖_F, ``[..., 1, 1]``, for eigenvalues that have been divided by unit²."""
    true = eigenvalues * unit.to(eigenvalues.dtype).square().squeeze(-1)
    small = true < 700  # beyond, exp(−2λ) is zero in float64
    squares = torch.where(small, true, 0) * torch.exp(-2 * torch.where(small, true, 0))
    total = squares.sum(-1)[..., None, None]
    return 1 + torch.where(total > 0, total, 1).sqrt() * (total > 0)


def _balanced_of_features(x: Tensor, *, unit: Tensor, products: torch.dtype | None = None) -> Tensor:
    root, eigenvalues = of_features(x, EXACT_ROOT, products)
    return _balance(eigenvalues, unit).to(root.dtype) * root


def _balanced_of_sigma(sigma: Tensor, *, unit: Tensor) -> Tensor:
    root, eigenvalues = of_sigma(sigma, EXACT_ROOT)
    return _balance(eigenvalues, unit) * root


balanced_root = (_balanced_of_features, _balanced_of_sigma)
"""SEB: (1 + ‖√Σ exp(−Σ)‖_F) √Σ. It looks at the scale of Σ, so it is no homogeneous function."""
