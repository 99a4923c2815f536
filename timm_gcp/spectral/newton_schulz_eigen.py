"""The Newton–Schulz root on the eigenvalues of the smaller side: the same polynomial, without products of C×C matrices.

All iterates are polynomials of A = Σ/tr Σ: Z_N = z(A) and Y_N = A z(A), with the scalar recurrence

    t = (3 − λ z²)/2,   z ← z t,   z₀ = 1.

With X̄ᵀX̄/tr Σ = V Λ Vᵀ (M < C) the result is (tr Σ)^(−½) (X̄V) z(Λ) (X̄V)ᵀ, and for the gradient the divided differences
z[a, b] = (z(a) − z(b))/(a − b) follow a recurrence of their own, without a difference of eigenvalues:

    t[a, b] = −(z(a)² + b (z(a) + z(b)) z[a, b])/2,   z[a, b] ← z[a, b] t(a) + z(b) t[a, b].

z is smooth at zero, so there is no division by an eigenvalue, no eigenvalue has to be cut, and float32 is enough.

With z(λ) = 1/√λ the same eigenvalues give the exact root: the output of `svdnewton`, whose gradient is that of the
iteration.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .batched_function import BatchedFunction
from .covariance import symmetric, trace_of
from .eigh import eigh
from .factor import kept_or_nan


def scalars(eigenvalues: Tensor, iterations: int) -> Tensor:
    """The scalars z(λ) after N steps.

    Args:
        eigenvalues: of A, ``[..., n]``, between 0 and 1.
        iterations: N.

    Returns:
        ``[..., n]``.
    """
    z = torch.ones_like(eigenvalues)
    for _ in range(iterations):
        z = z * (3 - eigenvalues * z.square()) / 2
    return z


@torch.library.custom_op("timm_gcp::divided_differences", mutates_args=())
def divided_differences(eigenvalues: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """The scalars z(λ), and the divided differences z[a, b] of every pair.

    A custom operator, because torch's compiler would expand every step in terms of all steps before it, with three
    times the code for each step.

    Args:
        eigenvalues: of A, ``[..., n]``.
        iterations: N.

    Returns:
        ``[..., n]`` and ``[..., n, n]``.
    """
    z = torch.ones_like(eigenvalues)
    pairs = eigenvalues.new_zeros(*eigenvalues.shape, eigenvalues.shape[-1])
    one = torch.ones_like(eigenvalues)
    for _ in range(iterations):
        y = eigenvalues * z
        t = (3 - y * z) / 2
        # z[a, b] ← z[a, b] (t(a) + t(b) − 3/2 − z(a) y(b)/2) − z(a)² z(b)/2, both factors of low rank.
        factor = torch.stack((t, one, -z / 2), -1) @ torch.stack((one, t - 1.5, y), -2)
        pairs.mul_(factor).sub_((z.square() / 2).unsqueeze(-1) * z.unsqueeze(-2))
        z = z * t
    return z, pairs


@divided_differences.register_fake
def _(eigenvalues: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(eigenvalues), eigenvalues.new_empty(*eigenvalues.shape, eigenvalues.shape[-1])


def _inverse_roots(eigenvalues: Tensor, size: int) -> Tensor:
    """1/√λ; zero where λ is within rounding of zero."""
    mask = kept_or_nan(eigenvalues, size)
    return torch.where(mask, torch.where(mask, eigenvalues, 1).rsqrt(), 0)


class _SmallSide(BatchedFunction):
    """For M < C, by the eigenvectors of X̄ᵀX̄."""

    @staticmethod
    def forward(x: Tensor, iterations: int, exact: bool) -> tuple[Tensor, ...]:
        gram = x.mT @ x
        trace = nonzero_trace(gram)
        eigenvalues, v = eigh(gram.div_(trace))
        xv = x @ v
        z = _inverse_roots(eigenvalues, x.shape[-2]) if exact else scalars(eigenvalues, iterations)
        return (xv * (z.unsqueeze(-2) / trace.sqrt())) @ xv.mT, xv, v, eigenvalues, trace

    @staticmethod
    def gradient(kept: Sequence[Tensor], grads: Sequence[Tensor | None], constants: Sequence[Any]) -> Tensor:
        xv, v, eigenvalues, trace = kept
        (grad,) = grads
        assert grad is not None
        z, pairs = divided_differences(eigenvalues, constants[0])
        gx = (grad + grad.mT) @ xv  # twice the symmetric part: the 2 of ∂L/∂X̄
        inner = (xv.mT @ gx).div_(trace.sqrt())
        diagonal = inner.diagonal(dim1=-2, dim2=-1)
        through_trace = -(diagonal * (z / 2 + pairs.diagonal(dim1=-2, dim2=-1) * eigenvalues)).sum(-1, keepdim=True)
        inner = inner.mul_(pairs)
        inner.diagonal(dim1=-2, dim2=-1).add_(through_trace)
        inner = inner.div_(trace)
        gx = gx.mul_(z.unsqueeze(-2) / trace.sqrt()).add_(xv @ inner)
        return gx @ v.mT


class _WholeMatrix(BatchedFunction):
    """For a given Σ, or M ≥ C."""

    @staticmethod
    def forward(sigma: Tensor, iterations: int, exact: bool) -> tuple[Tensor, ...]:
        trace = nonzero_trace(sigma)
        eigenvalues, v = eigh(sigma / trace)
        z = _inverse_roots(eigenvalues, sigma.shape[-1]) if exact else scalars(eigenvalues, iterations)
        return (v * (eigenvalues * z).unsqueeze(-2) * trace.sqrt()) @ v.mT, v, eigenvalues, trace

    @staticmethod
    def gradient(kept: Sequence[Tensor], grads: Sequence[Tensor | None], constants: Sequence[Any]) -> Tensor:
        v, eigenvalues, trace = kept
        (grad,) = grads
        assert grad is not None
        z, pairs = divided_differences(eigenvalues, constants[0])
        pairs = pairs.mul_(eigenvalues.unsqueeze(-2)).add_(z.unsqueeze(-1))  # (λ z)[a, b]
        inner = v.mT @ symmetric(grad) @ v
        diagonal = inner.diagonal(dim1=-2, dim2=-1)
        own = z / 2 - pairs.diagonal(dim1=-2, dim2=-1)
        through_trace = (diagonal * own * eigenvalues).sum(-1, keepdim=True)
        inner = inner.mul_(pairs)
        inner.diagonal(dim1=-2, dim2=-1).add_(through_trace)
        inner = inner.div_(trace.sqrt())
        return v @ inner @ v.mT


def nonzero_trace(a: Tensor) -> Tensor:
    """The trace of positive semi-definite matrices ``[..., n, n]``, as ``[..., 1, 1]``; one for a zero matrix."""
    trace = trace_of(a)
    return trace.masked_fill(trace <= 0, 1)


def newton_schulz_eigen(x: Tensor, iterations: int) -> Tensor:
    """``newton_schulz(X̄X̄ᵀ)`` by an eigendecomposition of the smaller side.

    Args:
        x: centred features ``[..., C, M]``, float32 or float64.
        iterations: N ≥ 1.

    Returns:
        ``[..., C, C]``, differentiable once.
    """
    return _of_features(x, iterations, exact=False)


def root_with_newton_gradient(x: Tensor, iterations: int) -> Tensor:
    """The exact root of X̄X̄ᵀ with the gradient of the Newton–Schulz iteration; one eigendecomposition for both.

    Args:
        x: centred features ``[..., C, M]``, float32 or float64.
        iterations: N ≥ 1, of the gradient.

    Returns:
        ``[..., C, C]``, differentiable once.
    """
    return _of_features(x, iterations, exact=True)


def root_of_sigma_with_newton_gradient(sigma: Tensor, iterations: int) -> Tensor:
    """`root_with_newton_gradient` of a given Σ.

    Args:
        sigma: positive semi-definite matrices ``[..., C, C]``, float32 or float64. Only the symmetric part counts.
        iterations: N ≥ 1, of the gradient.

    Returns:
        ``[..., C, C]``, differentiable once.
    """
    root: Tensor = _WholeMatrix.apply(symmetric(sigma), iterations, True)[0]
    return root


def _of_features(x: Tensor, iterations: int, exact: bool) -> Tensor:
    small = x.shape[-1] < x.shape[-2]
    outputs: tuple[Tensor, ...] = (
        _SmallSide.apply(x, iterations, exact) if small else _WholeMatrix.apply(x @ x.mT, iterations, exact)
    )
    return outputs[0]
