"""The backward rules: what each method takes for the Loewner matrix of the square root.

The derivative of Y = f(Σ) = V f(Λ) Vᵀ is ∂L/∂Σ = V (F ∘ (VᵀGV)) Vᵀ with the Loewner matrix
F_ij = (f(λ_i) − f(λ_j)) / (λ_i − λ_j), F_ii = f′(λ_i) (Daleckii & Krein; Higham, *Functions of Matrices*, ch. 3).
For the root that is F_ij = 1/(√λ_i + √λ_j). The published SVD layers go through the eigenvectors instead and need
K_ij = 1/(λ_i − λ_j); what they use of it is F̂_ij = (√λ_i − √λ_j) · K̂_ij, with their own approximation K̂. So a method
is a rule for F: an elementwise function of two eigenvalues.

Every rule takes broadcastable non-negative eigenvalues ``a`` and ``b`` and gives F at each pair; a pair of zeros gives
zero, which is the value taken at the root's kink. The functions ``k_*`` give K̂ itself, with the sign of 1/(a − b) and a
zero diagonal, as the published layers do.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Rule = Callable[[Tensor, Tensor], Tensor]


def exact(a: Tensor, b: Tensor) -> Tensor:
    """The Loewner matrix of the square root, 1/(√a + √b): no difference of eigenvalues, no cancellation."""
    total = a.sqrt() + b.sqrt()
    return torch.where(total == 0, 0, 1 / torch.where(total == 0, 1, total))


def k_svd(a: Tensor, b: Tensor) -> Tensor:
    """K = 1/(a − b), with overflow replaced by the largest finite number (MPN-COV, ICCV 2017; Ionescu et al. 2015)."""
    return _reciprocal(a - b)


def k_pade(a: Tensor, b: Tensor) -> Tensor:
    """K by the diagonal Padé approximant of the geometric series (the paper, §4).

    K = ±(1/p) · 1/(1 − x) with p the larger eigenvalue of the pair and x their ratio. In exact arithmetic every
    [M/N] Padé approximant of 1/(1 − x) with N ≥ 1 is 1/(1 − x) itself: the published [50/50] coefficients are one
    solution of a singular system and carry a common factor in numerator and denominator. That factor is left out
    here, and 1 − x is taken as (p − q)/p; what remains is well-conditioned and agrees with the published layer to its
    rounding.
    """
    larger = torch.maximum(a, b)
    return _reciprocal(larger * ((a - b) / torch.where(larger == 0, 1, larger)))


def _reciprocal(gap: Tensor) -> Tensor:
    largest = torch.finfo(gap.dtype).max
    return torch.where(gap == 0, 0, 1 / torch.where(gap == 0, 1, gap)).clamp(-largest, largest)


def through_eigenvectors(k: Rule) -> Rule:
    """The rule for F of a layer that differentiates eigenvectors with the given K̂: F̂ = (√a − √b) · K̂.

    Evaluated as 1/(√a + √b) times the share (a − b) · K̂ of the true quotient that the method keeps: the difference of
    two nearly equal roots would lose every digit at the near-ties which these rules are about. At exact ties, where
    the published K̂ is erratic, the share is 1: the limit 1/(2√a).
    """

    def rule(a: Tensor, b: Tensor) -> Tensor:
        gap = a - b
        return exact(a, b) * torch.where(gap == 0, 1, gap * k(a, b))

    rule.__name__ = f"through_eigenvectors_{k.__name__}"
    return rule
