"""The gradient of the exact root without an eigensolver: the Lyapunov equation, by matrix products."""

from collections.abc import Iterable

import torch
from torch import Tensor

from .covariance import symmetric


def lyapunov(root: Tensor, g: Tensor, scalings: Iterable[float]) -> Tensor:
    """Solves R X + X R = G for the gradient X = ∂L/∂Σ of the root R = Σ^½ (Song, Sebe, Wang, ICLR 2022).

    The coupled sign iteration on B = R/‖R‖, C = G/‖R‖: B ← aB(3I − a²B²)/2, C ← (3aC − a³(B²C − BCB + CB²))/2; B
    converges to I and C to 2X. It is slow where R is ill-conditioned: after n steps with a = 1 an eigenvalue ε of B has
    reached about 1.5ⁿ ε. All iterates are symmetric and are symmetrised after each step: the antisymmetric part of
    the rounding would grow a hundredfold.

    Args:
        root: symmetric positive semi-definite ``[..., C, C]``.
        g: symmetric ``[..., C, C]``.
        scalings: the factor a of each step; 1 for the published iteration.

    Returns:
        ``[..., C, C]``; zero for a zero root.
    """
    shape = root.shape
    root, g = root.reshape(-1, *shape[-2:]), g.reshape(-1, *shape[-2:])
    norm = torch.linalg.matrix_norm(root, keepdim=True)
    empty = norm == 0
    norm = norm.masked_fill(empty, 1)
    b, c = root / norm, g / norm
    for a in scalings:
        b2, bc = b @ b, b @ c
        # symmetric(2 B²C) is B²C + CB².
        c = torch.baddbmm(c, b2, c, beta=1.5 * a, alpha=-(a**3))
        c = symmetric(torch.baddbmm(c, bc, b, alpha=a**3 / 2))
        b = symmetric(torch.baddbmm(b, b, b2, beta=1.5 * a, alpha=a**3 / -2))
    out: Tensor = (c / 2).masked_fill(empty, 0).reshape(shape)
    return out
