"""MPA and MTP on the eigenvalues of the smaller side: the same functions, without products of C×C matrices.

The approximant r of a root is a scalar function, and the iterative Lyapunov solver of the backward is a scalar function
of each pair of eigenvalues: with b = r/‖R‖ for the eigenvalues r of the root, and c = 1/‖R‖ at the start,

    c[i, j] ← c[i, j] (3 − b_i² + b_i b_j − b_j²)/2,   b ← b (3 − b²)/2.

Unlike the root, r is not zero at zero: R = r(0) I + U diag(r(λ) − r(0)) Uᵀ.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .matrix_pade import Approximant, check_counts, matrix_root, taylor_coefficients
from .spectral_function import of_features


def pade_scalar(a: Tensor, degree: int) -> Tensor:
    """The [degree/degree] Padé approximant of √a about 1 in closed form: √a coth(n artanh √a), n = 2 · degree + 1."""
    n = 2 * degree + 1
    s = a.clamp(0, 1).sqrt()
    small = s < 1e-9  # r(0) = 1/n
    return torch.where(small, 1 / n, s / torch.tanh(n * torch.atanh(torch.where(small, 0.5, s))))


def taylor_scalar(a: Tensor, degree: int) -> Tensor:
    """The Taylor polynomial of √a about 1."""
    *lower, highest = taylor_coefficients(degree)
    out = torch.full_like(a, highest)
    for c in reversed(lower):
        out = out * (1 - a) + c
    return out


@dataclass(frozen=True)
class _RootFunction:
    """A `SpectralFunction`: r(λ) − r(0), compensated by ‖Σ‖_F, with the rule of the Lyapunov solver.

    Attributes:
        approximant: r, elementwise.
        degree: of r.
        iterations: steps of the solver.
        channels: C.
    """

    approximant: Approximant
    degree: int
    iterations: int
    channels: int

    def root(self, eigenvalues: Tensor) -> tuple[Tensor, Tensor]:
        """The approximant at the eigenvalues ``[..., n]`` and at zero ``[..., 1]``; zero for a zero matrix."""
        norm = torch.linalg.vector_norm(eigenvalues, dim=-1, keepdim=True)
        unit = norm.masked_fill(norm == 0, 1)
        return (
            norm.sqrt() * self.approximant(eigenvalues / unit, self.degree),
            norm.sqrt() * self.approximant(torch.zeros_like(norm), self.degree),
        )

    def value(self, eigenvalues: Tensor) -> Tensor:
        """The difference r(λ) − r(0)."""
        root, zero = self.root(eigenvalues)
        return root - zero

    def loewner(self, eigenvalues: Tensor, unit: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The rule at every pair, and of every eigenvalue against zero."""
        root, zero = self.root(eigenvalues)
        others = self.channels - eigenvalues.shape[-1]
        norm = (root.square().sum(-1, keepdim=True) + others * zero.square()).sqrt()
        norm = norm.masked_fill(norm == 0, 1)
        b = torch.cat((root, zero), -1) / norm
        c = (0.5 / norm).unsqueeze(-1)
        for _ in range(self.iterations):
            square = b.square()
            c = c * (1.5 - (square[..., :-1, None] - b[..., :-1, None] * b[..., None, :] + square[..., None, :]) / 2)
            b = b * (3 - square) / 2
        return c[..., :-1], c[..., -1]


def matrix_root_eigen(x: Tensor, approximant: Approximant, degree: int, iterations: int) -> Tensor:
    """``matrix_root(X̄X̄ᵀ)`` by a float64 eigendecomposition of the smaller side; matrix products in the dtype of ``x``.

    Args:
        x: centred features ``[..., C, M]``, float32 or float64.
        approximant: ``pade_scalar`` or ``taylor_scalar``.
        degree: of the approximant, at least 1.
        iterations: steps of the Lyapunov solver, at least 1.

    Returns:
        ``[..., C, C]`` in the dtype of ``x``, differentiable once.

    Raises:
        ValueError: a degree or number of steps below 1.
    """
    check_counts(degree, iterations)
    function = _RootFunction(approximant, degree, iterations, x.shape[-2])
    out, eigenvalues = of_features(x.double(), function, x.dtype)
    zero = function.root(eigenvalues.detach())[1].to(out.dtype)
    return out + zero.unsqueeze(-1) * torch.eye(x.shape[-2], dtype=out.dtype, device=out.device)


def matrix_root_of_features(
    x: Tensor, approximant: Approximant, scalar: Approximant, degree: int, iterations: int
) -> Tensor:
    """``matrix_root(X̄X̄ᵀ)``, by eigenvalues on a CPU and by matrix products on a GPU, where eigensolvers are slow.

    Args:
        x: centred features ``[..., C, M]``, float32 or float64.
        approximant: ``pade_root`` or ``taylor_root``.
        scalar: the same function of eigenvalues, ``pade_scalar`` or ``taylor_scalar``.
        degree: of the approximant, at least 1.
        iterations: steps of the Lyapunov solver, at least 1.

    Returns:
        ``[..., C, C]`` in the dtype of ``x``, differentiable once.

    Raises:
        ValueError: a degree or number of steps below 1.
    """
    if x.device.type == "cpu":
        return matrix_root_eigen(x, scalar, degree, iterations)
    return matrix_root(x @ x.mT, approximant, degree, iterations)
