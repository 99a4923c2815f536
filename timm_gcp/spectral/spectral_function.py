"""A function f(Σ) of the eigenvalues and its gradient by a Loewner matrix: the autograd function of most methods."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from .batched_function import BatchedFunction
from .covariance import symmetric
from .eigh import eigh
from .factor import factor, kept_or_nan
from .fused import fused
from .loewner import Rule, exact, exact_power, k_trunc, through_eigenvectors


class SpectralFunction(Protocol):
    """A function of eigenvalues with f(0) = 0, and its Loewner matrix, or the rule that replaces it."""

    def value(self, eigenvalues: Tensor) -> Tensor:
        """The function at the eigenvalues ``[..., n]``, which are ascending, and zero where cut."""

    def loewner(self, eigenvalues: Tensor, unit: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """F at every pair, ``[..., n, n]``, and F of every eigenvalue against the null space, ``[..., n]``.

        ``unit``, ``[..., 1, 1]``, is what the features have been divided by (Σ by its square); None where nothing was.
        """


@dataclass(frozen=True)
class Elementwise:
    """A spectral function of each eigenvalue by itself, with a rule for each pair of eigenvalues.

    Attributes:
        f: the scalar function.
        rule: its Loewner matrix, elementwise (``loewner``).
    """

    f: Callable[[Tensor], Tensor]
    rule: Rule

    def value(self, eigenvalues: Tensor) -> Tensor:
        """The function at the eigenvalues."""
        return self.f(eigenvalues)

    def loewner(self, eigenvalues: Tensor, unit: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The rule at every pair, and of every eigenvalue against zero."""
        pairs = self.rule(eigenvalues.unsqueeze(-1), eigenvalues.unsqueeze(-2))
        return pairs, self.rule(eigenvalues, torch.zeros_like(eigenvalues))


@dataclass(frozen=True)
class ClippedRoot:
    """The square root, with the gradient of a layer that clips K = 1/(λi − λj) (the paper, §3).

    Attributes:
        clip: bound of |K|, in units of 1/Σ.
    """

    clip: float

    def value(self, eigenvalues: Tensor) -> Tensor:
        """The square roots."""
        return eigenvalues.sqrt()

    def loewner(self, eigenvalues: Tensor, unit: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The rule at every pair, and of every eigenvalue against zero."""
        # Eigenvalues that were divided by unit² have a K that is unit² times as large, and so is its bound.
        bound = torch.full_like(eigenvalues[..., :1, None], self.clip)
        if unit is not None:
            bound = bound * unit.to(bound.dtype).square()
        pairs = through_eigenvectors(partial(k_trunc, bound=bound))
        null = through_eigenvectors(partial(k_trunc, bound=bound.squeeze(-1)))
        return (
            pairs(eigenvalues.unsqueeze(-1), eigenvalues.unsqueeze(-2)),
            null(eigenvalues, torch.zeros_like(eigenvalues)),
        )


EXACT_ROOT = Elementwise(torch.sqrt, exact)
"""The square root with its own Loewner matrix."""


def power(alpha: float, k: Rule | None = None) -> Elementwise:
    """The power λ^α.

    Args:
        alpha: the power, above 0.
        k: K̂, for a gradient through the eigenvectors; None for the exact Loewner matrix.
    """
    own = exact_power(alpha)
    f = torch.sqrt if alpha == 0.5 else partial(torch.pow, exponent=alpha)
    return Elementwise(f, through_eigenvectors(k, own) if k else own)


@fused
def _loewner(eigenvalues: Tensor, function: SpectralFunction, unit: Tensor | None) -> tuple[Tensor, Tensor]:
    return function.loewner(eigenvalues, unit)


class _OfFeatures(BatchedFunction):
    results = 2
    keeps_inputs = (3,)

    @staticmethod
    def forward(
        x: Tensor, function: SpectralFunction, matmul_dtype: torch.dtype, unit: Tensor | None
    ) -> tuple[Tensor, ...]:
        u, s, w = factor(x)
        eigenvalues = s.square()
        u, w = u.to(matmul_dtype), w.to(matmul_dtype)
        return (u * function.value(eigenvalues).to(matmul_dtype).unsqueeze(-2)) @ u.mT, eigenvalues, u, s, w

    @staticmethod
    def gradient(kept: Sequence[Tensor], grads: Sequence[Tensor | None], constants: Sequence[Any]) -> Tensor:
        unit, u, s, w = kept
        grad, grad_eigenvalues = grads
        if grad is None:
            grad = u.new_zeros(*u.shape[:-2], u.shape[-2], u.shape[-2])
        pairs, null = _loewner(s.square().to(u.dtype), constants[0], unit)
        gu = (grad + grad.mT) @ u  # twice the symmetric part: the 2 of ∂L/∂X̄
        # F against the null space is D_j = s_j F(λ_j, 0). Cut columns of u, w are zero: their entries do not matter.
        near = s.to(u.dtype).unsqueeze(-2)
        d = near * null.unsqueeze(-2)
        inner = (u.mT @ gu).mul_(pairs.mul_(near).sub_(d))
        if grad_eigenvalues is not None:
            inner.diagonal(dim1=-2, dim2=-1).add_((2 * grad_eigenvalues * s).to(u.dtype))
        return ((u @ inner).add_(gu.mul_(d)) @ w.mT).to(s.dtype)


class _OfSigma(BatchedFunction):
    results = 2
    keeps_inputs = (2,)
    keeps_results = (1,)

    @staticmethod
    def forward(sigma: Tensor, function: SpectralFunction, unit: Tensor | None) -> tuple[Tensor, ...]:
        eigenvalues, v = eigh(sigma)
        mask = kept_or_nan(eigenvalues, sigma.shape[-1])
        eigenvalues = torch.where(mask, eigenvalues, 0)
        return (v * function.value(eigenvalues).unsqueeze(-2)) @ v.mT, eigenvalues, v

    @staticmethod
    def gradient(kept: Sequence[Tensor], grads: Sequence[Tensor | None], constants: Sequence[Any]) -> Tensor:
        unit, eigenvalues, v = kept
        grad, grad_eigenvalues = grads
        pairs, _ = _loewner(eigenvalues, constants[0], unit)
        inner = torch.zeros_like(v) if grad is None else pairs * (v.mT @ symmetric(grad) @ v)
        if grad_eigenvalues is not None:
            inner = inner + torch.diag_embed(grad_eigenvalues * (eigenvalues > 0))
        return v @ inner @ v.mT


def of_features(
    x: Tensor, function: SpectralFunction, matmul_dtype: torch.dtype | None = None, unit: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """f(X̄X̄ᵀ), differentiated from the features.

    With the thin singular value decomposition X̄ = U S Wᵀ and f(0) = 0,

        ∂L/∂X̄ = 2 [ U ((UᵀGU) ∘ (F S)) + (I − UUᵀ) G U D ] Wᵀ,   D = diag(f(λ_j)/s_j).

    For the exact root F S lies in [0, 1] and D = I: X̄ ↦ (X̄X̄ᵀ)^½ is √2-Lipschitz in the Frobenius norm
    (Araki & Yamagami 1981), so ‖∂L/∂X̄‖ ≤ √2 ‖G‖ however ill-conditioned Σ is.

    Args:
        x: centred features ``[..., C, M]``, float32 or float64.
        function: f and its Loewner matrix.
        matmul_dtype: precision of the output and of the matrix products of the backward; None takes that of ``x``.
            Eigenvalues are computed in the dtype of ``x``, and all factors of the products are at most one (U, W, F S,
            D for the root), so float32 costs no more than its rounding, whatever the conditioning.
        unit: ``[..., 1, 1]``, what the features have been divided by, for a function whose gradient has a scale.

    Returns:
        f(Σ), ``[..., C, C]``, symmetric, in ``matmul_dtype``, and the eigenvalues ``[..., min(C, M)]`` in the dtype of
        ``x``, ascending, zero where cut, for methods that depend on a scalar of Σ. Both are differentiable once; a
        second derivative raises ``RuntimeError``.
    """
    outputs: tuple[Tensor, ...] = _OfFeatures.apply(x, function, matmul_dtype or x.dtype, unit)
    return outputs[0], outputs[1]


def of_sigma(sigma: Tensor, function: SpectralFunction, unit: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """f(Σ) of a given positive semi-definite matrix, ∂L/∂Σ = V (F ∘ (VᵀGV)) Vᵀ (Daleckii & Krein).

    Eigenvalues under C · eps · λ_max, negative ones included, count as zero. The bound of ``of_features`` does not hold
    here: near the null space the derivative of the root grows like 1/√λ.

    Args:
        sigma: ``[..., C, C]``, float32 or float64. Only its symmetric part counts.
        function: f and its Loewner matrix.
        unit: ``[..., 1, 1]``; Σ has been divided by its square, for a function whose gradient has a scale.

    Returns:
        As ``of_features``, with C eigenvalues.
    """
    outputs: tuple[Tensor, ...] = _OfSigma.apply(symmetric(sigma), function, unit)
    return outputs[0], outputs[1]
