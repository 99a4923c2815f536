"""f(Σ) with a Loewner-matrix backward: the one ``autograd.Function`` of every spectral method, for either input."""

from collections.abc import Callable

import torch
from torch import Tensor

from .covariance import symmetric
from .eigh import eigh
from .factor import factor, kept
from .loewner import Rule
from .once import differentiable_once

Scalar = Callable[[Tensor], Tensor]


class _OfFeatures(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, f: Scalar, rule: Rule) -> Tensor:
        u, s, w = factor(x)
        ctx.save_for_backward(u, s, w)
        ctx.rule = rule
        return (u * f(s.square()).unsqueeze(-2)) @ u.mT

    @staticmethod
    @differentiable_once
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        u, s, w = ctx.saved_tensors
        eigenvalues = s.square()
        gu = symmetric(grad) @ u
        within = u.mT @ gu
        # F against the null space: D_j = s_j F(λ_j, 0). Cut columns of u, w are zero, so their entries do not matter.
        d = (s * ctx.rule(eigenvalues, torch.zeros_like(eigenvalues))).unsqueeze(-2)
        fs = ctx.rule(eigenvalues.unsqueeze(-1), eigenvalues.unsqueeze(-2)) * s.unsqueeze(-2)
        return 2 * (u @ (within * (fs - d)) + gu * d) @ w.mT, None, None


class _OfSigma(torch.autograd.Function):
    @staticmethod
    def forward(ctx, sigma: Tensor, f: Scalar, rule: Rule) -> Tensor:
        eigenvalues, v = eigh(sigma)
        mask = kept(eigenvalues, sigma.shape[-1]) | torch.isnan(eigenvalues)
        eigenvalues = torch.where(mask, eigenvalues, 0)
        ctx.save_for_backward(v, eigenvalues)
        ctx.rule = rule
        return (v * f(eigenvalues).unsqueeze(-2)) @ v.mT

    @staticmethod
    @differentiable_once
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        v, eigenvalues = ctx.saved_tensors
        inner = v.mT @ symmetric(grad) @ v
        loewner = ctx.rule(eigenvalues.unsqueeze(-1), eigenvalues.unsqueeze(-2))
        return v @ (loewner * inner) @ v.mT, None, None


def of_features(x: Tensor, f: Scalar, rule: Rule) -> Tensor:
    """f(X̄X̄ᵀ), differentiated from the features.

    With the thin singular value decomposition X̄ = U S Wᵀ and f(0) = 0,

        ∂L/∂X̄ = 2 [ U ((UᵀGU) ∘ (F S)) + (I − UUᵀ) G U D ] Wᵀ,   D = diag(f(λ_j)/s_j).

    For the exact root F S lies in [0, 1] and D = I: X̄ ↦ (X̄X̄ᵀ)^½ is √2-Lipschitz in the Frobenius norm
    (Araki & Yamagami 1981), so ‖∂L/∂X̄‖ ≤ √2 ‖G‖ however ill-conditioned Σ is.

    Args:
        x: centred features ``[..., C, M]``, float32 or float64.
        f: the scalar function, applied to eigenvalues; f(0) = 0.
        rule: its Loewner matrix, or what the method takes for it (``loewner``).

    Returns:
        ``[..., C, C]``, symmetric. Differentiable once; a second derivative raises ``RuntimeError``.
    """
    return _OfFeatures.apply(x, f, rule)


def of_sigma(sigma: Tensor, f: Scalar, rule: Rule) -> Tensor:
    """f(Σ) of a given positive semi-definite matrix, ∂L/∂Σ = V (F ∘ (VᵀGV)) Vᵀ (Daleckii & Krein).

    Eigenvalues under C · eps · λ_max, negative ones included, count as zero. The bound of ``of_features`` does not hold
    here: near the null space the derivative of the root grows like 1/√λ.

    Args:
        sigma: ``[..., C, C]``, float32 or float64. Only its symmetric part counts.
        f: the scalar function, applied to eigenvalues.
        rule: its Loewner matrix, or what the method takes for it (``loewner``).

    Returns:
        ``[..., C, C]``, symmetric. Differentiable once; a second derivative raises ``RuntimeError``.
    """
    return _OfSigma.apply(symmetric(sigma), f, rule)
