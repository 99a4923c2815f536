"""Spectral MaxExp, I − (I − Σ/tr Σ)^η: a power normalisation by matrix products only."""

import torch
from torch import Tensor

from .covariance import symmetric, to_unit_norm, trace_of

# With E_k = I − (I − A)^k: E_2k = 2E_k − E_k² and E_k+1 = E_k + A − A E_k, by the binary digits of η (Koniusz & Zhang,
# 'fast spectral MaxExp'). No step subtracts from the identity, so eigenvalues near zero lose no digits.


def max_exp_of_features(x: Tensor, eta: int) -> Tensor:
    """Spectral MaxExp of features: each eigenvalue λ of Σ becomes 1 − (1 − λ/tr Σ)^η.

    For M < C it is computed on the smaller side: with K = X̄ᵀX̄/tr Σ and G_η = Σ_{j<η} (I − K)ʲ it is X̄ G_η X̄ᵀ/tr Σ. The
    trace is part of the function, so its gradient includes that of the trace. The scale is not restored, as in the
    paper: the output lies between 0 and I, and does not change when the features are scaled.

    Args:
        x: centred features ``[..., C, M]``.
        eta: η ≥ 1; 1 gives Σ/tr Σ.

    Returns:
        ``[..., C, C]``; zero, with a zero gradient, for zero features.
    """
    x = to_unit_norm(x, (-2, -1))
    if x.shape[-1] < x.shape[-2]:
        return x @ _geometric(x.mT @ x, eta) @ x.mT
    return _max_exp(x @ x.mT, eta)


def max_exp_of_sigma(sigma: Tensor, eta: int) -> Tensor:
    """Spectral MaxExp of a given positive semi-definite Σ, ``[..., C, C]``. Only its symmetric part counts."""
    sigma = symmetric(sigma)
    trace = trace_of(sigma)
    empty = trace <= 0
    return _max_exp((sigma / trace.masked_fill(empty, 1)).masked_fill(empty, 0), eta)


def _max_exp(a: Tensor, eta: int) -> Tensor:
    """E_η of symmetric matrices with eigenvalues in [0, 1]."""
    out = a
    for digit in f"{eta:b}"[1:]:
        out = 2 * out - out @ out
        if digit == "1":
            out = out + a - a @ out
    return out


def _geometric(k: Tensor, eta: int) -> Tensor:
    """G_η = Σ_{j<η} (I − K)ʲ, by G_2k = 2G_k − G_k K G_k and G_k+1 = I + G_k − K G_k."""
    eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    out = eye
    for digit in f"{eta:b}"[1:]:
        out = 2 * out - out @ k @ out
        if digit == "1":
            out = eye + out - k @ out
    return out
