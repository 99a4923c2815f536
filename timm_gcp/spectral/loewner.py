"""The backward rules: what each method uses as the Loewner matrix of the square root.

The derivative of Y = f(Σ) = V f(Λ) Vᵀ is ∂L/∂Σ = V (F ∘ (VᵀGV)) Vᵀ with the Loewner matrix
F_ij = (f(λ_i) − f(λ_j)) / (λ_i − λ_j), F_ii = f′(λ_i) (Daleckii & Krein; Higham, *Functions of Matrices*, ch. 3).
For the root that is F_ij = 1/(√λ_i + √λ_j). The published SVD layers differentiate the eigenvectors instead and need
K_ij = 1/(λ_i − λ_j), which they approximate by K̂; what reaches Σ is F̂_ij = (√λ_i − √λ_j) · K̂_ij. So a method is a rule
for F: an elementwise function of two eigenvalues.

Every rule takes broadcastable non-negative eigenvalues ``a`` and ``b`` and returns F at each pair; for a pair of zeros,
where the root has a kink, it returns zero. The functions ``k_*`` return K̂ itself, with the sign of 1/(a − b) and a zero
diagonal, as in the published layers.

A rule with parameters is a ``partial`` of a function of this file, not a closure: a traced graph contains its printed
form, which for a closure is different each time it is created.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

Rule = Callable[[Tensor, Tensor], Tensor]


def exact(a: Tensor, b: Tensor) -> Tensor:
    """The Loewner matrix of the square root, 1/(√a + √b), which contains no difference of eigenvalues."""
    return _reciprocal(a.sqrt() + b.sqrt())


def exact_power(alpha: float) -> Rule:
    """The Loewner matrix of λ ↦ λ^α, 0 < α: (a^α − b^α)/(a − b) without cancellation.

    With p the larger of the pair and x = 1 − (p − q)/p their ratio it is p^(α−1) · (1 − x^α)/(1 − x).
    """
    return exact if alpha == 0.5 else partial(_exact_power, alpha)


def _exact_power(alpha: float, a: Tensor, b: Tensor) -> Tensor:
    larger, rest = _larger_and_rest(a, b)
    ratio = torch.where(rest == 0, alpha, _one_minus_power(a, b, larger, rest, alpha) / torch.where(rest == 0, 1, rest))
    return torch.where(larger == 0, 0, torch.where(larger == 0, 1, larger) ** (alpha - 1) * ratio)


def shifted_root(a: Tensor, b: Tensor) -> Tensor:
    """The Loewner matrix of t ↦ √(1 + t) − 1, smooth at zero: 1/(√(1 + a) + √(1 + b))."""
    return 1 / ((1 + a).sqrt() + (1 + b).sqrt())


def shifted_log(a: Tensor, b: Tensor) -> Tensor:
    """The Loewner matrix of t ↦ log(1 + t), (log1p a − log1p b)/(a − b), without cancellation."""
    u = (a - b) / (1 + b)
    return torch.where(u == 0, 1, torch.log1p(u) / torch.where(u == 0, 1, u)) / (1 + b)


def k_svd(a: Tensor, b: Tensor) -> Tensor:
    """K = 1/(a − b), with overflow replaced by the largest finite number (MPN-COV, ICCV 2017; Ionescu et al. 2015)."""
    return _finite(_reciprocal(a - b))


def k_trunc(a: Tensor, b: Tensor, bound: Tensor | float = 1e10) -> Tensor:
    """K = 1/(a − b), clipped to ±``bound`` (the paper, §3)."""
    k = _reciprocal(a - b)
    bound = torch.as_tensor(bound, dtype=k.dtype, device=k.device)
    return torch.minimum(torch.maximum(k, -bound), bound)


def k_taylor(degree: int = 100) -> Rule:
    """K by the Taylor polynomial of the geometric series (Wang et al., TPAMI 2021).

    K = ±(1/p) Σ_{k=0..degree} x^k with p the larger eigenvalue of the pair and x their ratio, summed in closed form,
    (1 − x^(degree+1))/(1 − x). For equal eigenvalues it is (degree + 1)/p.
    """
    return partial(_k_taylor, degree)


def _k_taylor(degree: int, a: Tensor, b: Tensor) -> Tensor:
    larger, rest = _larger_and_rest(a, b)
    tie = rest == 0
    series = _one_minus_power(a, b, larger, rest, degree + 1).div_(rest.masked_fill_(tie, 1))
    return series.div_(larger.masked_fill_(larger == 0, 1)).mul_((a - b).sign_()).masked_fill_(tie, 0)


def k_pade(a: Tensor, b: Tensor) -> Tensor:
    """K by the diagonal Padé approximant of the geometric series (the paper, §4).

    K = ±(1/p) · 1/(1 − x) with p the larger eigenvalue of the pair and x their ratio. In exact arithmetic every
    [M/N] Padé approximant of 1/(1 − x) with N ≥ 1 is 1/(1 − x) itself: the published [50/50] coefficients are one
    solution of a singular system and have a common factor in numerator and denominator. Here that factor is left out
    and 1 − x is computed as (p − q)/p, which is well-conditioned and agrees with the published layer up to the rounding
    of that layer.
    """
    larger = torch.maximum(a, b)
    rest = (a - b).div_(larger.masked_fill(larger == 0, 1))
    return _finite(_reciprocal(rest.mul_(larger)))


def through_eigenvectors(k: Rule, power: Rule = exact) -> Rule:
    """The rule for F of a layer that differentiates eigenvectors with the given K̂: F̂ = (√a − √b) · K̂.

    Evaluated as 1/(√a + √b) times (a − b) · K̂, the share of the true quotient that the method keeps: where eigenvalues
    are nearly equal, which is what these rules are for, the difference of their roots would lose every digit. At exact
    ties, where the published K̂ is erratic, the share is 1, which gives the limit 1/(2√a).

    Args:
        k: K̂.
        power: the exact Loewner matrix, if the function is not the root.
    """
    return partial(_through_eigenvectors, k, power)


def _through_eigenvectors(k: Rule, power: Rule, a: Tensor, b: Tensor) -> Tensor:
    gap = a - b
    share = k(a, b).mul_(gap).masked_fill_(gap == 0, 1)
    return share.mul_(power(a, b))


@dataclass(frozen=True)
class LargestRoots:
    """The root of the ``keep`` largest eigenvalues, with all others set to zero (the paper, §3: SVD-TopN).

    Its Loewner matrix is that of the root for two kept eigenvalues, √a/(a − b) for a kept a and a dropped b, and zero
    for two dropped ones. If a kept and a dropped eigenvalue are equal, where the function is not differentiable, it is
    the limit 1/(2√a).

    Attributes:
        keep: how many eigenvalues to keep.
    """

    keep: int

    def value(self, eigenvalues: Tensor) -> Tensor:
        """The roots of the kept eigenvalues, zero for the others."""
        return self._split(eigenvalues).sqrt()

    def loewner(self, eigenvalues: Tensor, unit: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The Loewner matrix, and F of every eigenvalue against zero."""
        top = self._split(eigenvalues)
        a, b = eigenvalues.unsqueeze(-1), eigenvalues.unsqueeze(-2)
        ta, tb = top.unsqueeze(-1), top.unsqueeze(-2)
        across = (ta > 0) != (tb > 0)
        gap = a - b
        quotient = torch.where(gap == 0, exact(a, b), (ta.sqrt() - tb.sqrt()) / torch.where(gap == 0, 1, gap))
        return torch.where(across, quotient, exact(ta, tb)), exact(top, torch.zeros_like(top))

    def _split(self, eigenvalues: Tensor) -> Tensor:
        dropped = torch.arange(eigenvalues.shape[-1], device=eigenvalues.device) < eigenvalues.shape[-1] - self.keep
        return torch.where(dropped, 0, eigenvalues)


def _larger_and_rest(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The larger of a pair, and 1 − x with the ratio x of the smaller to the larger; zero for a pair of zeros."""
    larger = torch.maximum(a, b)
    return larger, (a - b).abs_().div_(larger.masked_fill(larger == 0, 1))


def _one_minus_power(a: Tensor, b: Tensor, larger: Tensor, rest: Tensor, power: float) -> Tensor:
    """1 − x^power for the ratio x = 1 − rest of a pair, the smaller to the larger, without cancellation near 0 or 1.

    The result is a new tensor, which may be changed in place.
    """
    x = torch.minimum(a, b).div_(larger.masked_fill(larger == 0, 1))
    logarithm = torch.where(x < 0.5, x.log(), rest.neg().log1p_())
    return logarithm.mul_(power).expm1_().neg_()


def _reciprocal(x: Tensor) -> Tensor:
    """1/x, zero where x is zero; in place, because these rules would spend most of their time on new memory."""
    zero = x == 0
    return x.masked_fill_(zero, 1).reciprocal_().masked_fill_(zero, 0)


def _finite(x: Tensor) -> Tensor:
    """Clipped to the largest finite number; in place."""
    bound = torch.finfo(x.dtype).max
    return x.clamp_(-bound, bound)
