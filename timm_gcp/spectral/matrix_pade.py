"""The root by one matrix polynomial or rational function; backward by the Lyapunov equation (MPA, MTP; ICLR 2022)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .batched_function import BatchedFunction
from .covariance import symmetric
from .lyapunov import lyapunov

Approximant = Callable[[Tensor, int], Tensor]

_HIGHEST_IN_FLOAT32 = 8  # 4⁸/17 = 4·10³


def _polynomial(a: Tensor, coefficients: list[float]) -> Tensor:
    """Σ c_k Aᵏ, for at least two coefficients."""
    power = a
    out = torch.add(coefficients[0] * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device), a, alpha=coefficients[1])
    for c in coefficients[2:]:
        power = power @ a
        out = torch.add(out, power, alpha=c)
    return out


def pade_parts(a: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of the [degree/degree] Padé approximant of √A about I.

    In closed form, with binomials of n = 2 · degree + 1: Σ C(n, 2k) Aᵏ and Σ C(n, 2k+1) Aᵏ, the even and odd parts of
    (1 + √A)ⁿ, divided by 2ⁿ.
    """
    n = 2 * degree + 1
    scale = 2.0**-n  # the binomials of high degrees are large
    even = _polynomial(a, [scale * math.comb(n, 2 * k) for k in range(degree + 1)])
    odd = _polynomial(a, [scale * math.comb(n, 2 * k + 1) for k in range(degree + 1)])
    return even, odd


def pade_root(a: Tensor, degree: int) -> Tensor:
    """The [degree/degree] Padé approximant of √A about I.

    The denominator is positive definite, since its coefficients are positive, so it is inverted by a Cholesky
    factorisation. (LU fails in some builds of MKL: with several threads and matrices the pivots are zeros.) Its
    condition number grows fourfold with each degree, so high degrees are computed in float64.
    """
    work = a.double() if degree > _HIGHEST_IN_FLOAT32 else a
    even, odd = pade_parts(work, degree)
    factor, fault = torch.linalg.cholesky_ex(odd)
    factor = factor.masked_fill(fault[..., None, None] > 0, torch.nan)  # only for the matrices that failed
    return torch.cholesky_solve(even, factor).to(a.dtype)


def taylor_coefficients(degree: int) -> list[float]:
    """The coefficients of √a in powers of 1 − a: (−1)ᵏ C(½, k)."""
    coefficients, c = [1.0], 1.0
    for k in range(degree):
        c *= (k - 0.5) / (k + 1)
        coefficients.append(c)
    return coefficients


def taylor_root(a: Tensor, degree: int) -> Tensor:
    """The Taylor polynomial of √A about I."""
    return _polynomial(torch.eye(a.shape[-1], dtype=a.dtype, device=a.device) - a, taylor_coefficients(degree))


class _MatrixRoot(BatchedFunction):
    keeps_results = (0,)

    @staticmethod
    def forward(sigma: Tensor, approximant: Approximant, degree: int, iterations: int) -> Tensor:
        norm = torch.linalg.matrix_norm(sigma, keepdim=True)
        empty = norm == 0
        norm = norm.masked_fill(empty, 1)
        root: Tensor = norm.sqrt() * symmetric(approximant(sigma / norm, degree))
        return root.masked_fill(empty, 0)

    @staticmethod
    def gradient(kept: Sequence[Tensor], grads: Sequence[Tensor | None], constants: Sequence[Any]) -> Tensor:
        (root,), (grad,), iterations = kept, grads, constants[2]
        assert grad is not None
        return lyapunov(root, symmetric(grad), [1.0] * iterations)


def check_counts(degree: int, iterations: int) -> None:
    """Refuses a degree or a number of steps below 1 with ``ValueError``."""
    if degree < 1 or iterations < 1:
        raise ValueError(f"A matrix root takes a degree and iterations of at least 1, not {degree} and {iterations}.")


def matrix_root(sigma: Tensor, approximant: Approximant, degree: int, iterations: int) -> Tensor:
    """An approximate square root, compensated by the Frobenius norm; backward by the Lyapunov equation.

    The backward treats the output as the exact root, so the norm needs no term of its own.

    Args:
        sigma: positive semi-definite ``[..., C, C]``, float32 or float64. Only the symmetric part counts.
        approximant: ``pade_root`` or ``taylor_root``.
        degree: of the approximant, at least 1.
        iterations: steps of the Lyapunov solver, at least 1.

    Returns:
        ``[..., C, C]``; zero, with a zero gradient, for a zero matrix. Differentiable once.

    Raises:
        ValueError: a degree or number of steps below 1.
    """
    check_counts(degree, iterations)
    root: Tensor = _MatrixRoot.apply(symmetric(sigma), approximant, degree, iterations)
    return root
