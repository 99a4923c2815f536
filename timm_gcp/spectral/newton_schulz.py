"""The coupled Newton–Schulz iteration for the matrix square root (iSQRT-COV, CVPR 2018), with its adjoint by hand."""

import torch
from torch import Tensor

from .covariance import symmetric
from .once import differentiable_once


class _NewtonSchulz(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor, iterations: int) -> Tensor:
        y, z = a, None  # Z₀ = I is never multiplied out
        steps = []
        for k in range(iterations):
            t = _step(y if z is None else z @ y)
            steps += [y, t] if z is None else [y, t, z]
            last = k == iterations - 1
            y, z = y @ t, (None if last else t if z is None else t @ z)
        ctx.save_for_backward(*steps)
        return y

    @staticmethod
    @differentiable_once
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        saved = ctx.saved_tensors
        dy, dz = symmetric(grad), None
        # All iterates are polynomials of A, so symmetric: no transposes on Y, Z, T.
        for k in range(len(saved) // 3, 0, -1):
            y, t, z = saved[3 * k - 1 : 3 * k + 2]
            dt = y @ dy if dz is None else y @ dy + dz @ z
            dy, dz = dy @ t - z @ dt / 2, (0 if dz is None else t @ dz) - dt @ y / 2
        y, t = saved[:2]
        dt = y @ dy if dz is None else y @ dy + dz
        return symmetric(dy @ t - dt / 2), None


def _step(zy: Tensor) -> Tensor:
    """T = (3I − ZY)/2."""
    eye = torch.eye(zy.shape[-1], dtype=zy.dtype, device=zy.device)
    return torch.add(1.5 * eye, zy, alpha=-0.5)


def newton_schulz(sigma: Tensor, iterations: int = 5) -> Tensor:
    """An approximate square root by matrix products alone, compensated by the trace.

    A = Σ/tr Σ, Y₀ = A, Z₀ = I; T = (3I − ZY)/2, Y ← YT, Z ← TZ; the result is √(tr Σ) · Y_N. It converges from below,
    and slowly where λ ≪ tr Σ: after N steps an eigenvalue ε of A has reached about 1.5ᴺ ε of its root √ε.

    Args:
        sigma: positive semi-definite matrices ``[..., C, C]``, float32 or float64. Only the symmetric part counts.
        iterations: N ≥ 1; the paper's and upstream's value is 5.

    Returns:
        ``[..., C, C]``; zero, with a zero gradient, for a zero matrix. Differentiable once.

    Raises:
        ValueError: ``iterations`` below 1.
    """
    if iterations < 1:
        raise ValueError(f"newton_schulz takes at least one iteration, not {iterations}.")
    sigma = symmetric(sigma)
    trace = sigma.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    empty = trace <= 0
    trace = trace.masked_fill(empty, 1)
    return trace.sqrt() * _NewtonSchulz.apply((sigma / trace).masked_fill(empty, 0), iterations)
