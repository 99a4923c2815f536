"""The exact root's gradient without eigenvectors: the Lyapunov equation, by matrix products."""

import torch
from torch import Tensor


def lyapunov(root: Tensor, g: Tensor, iterations: int) -> Tensor:
    """Solves R X + X R = G for the gradient X = ∂L/∂Σ of the root R = Σ^½ (Song, Sebe, Wang, ICLR 2022).

    The coupled sign iteration on B = R/‖R‖, C = G/‖R‖: B ← B(3I − B²)/2, C ← (−B²C + BCB + C(3I − B²))/2; B converges
    to I and C to 2X. Slow where R is ill-conditioned: after n steps an eigenvalue ε of B has reached about 1.5ⁿ ε.

    Args:
        root: symmetric positive semi-definite ``[..., C, C]``.
        g: symmetric ``[..., C, C]``.
        iterations: steps.

    Returns:
        ``[..., C, C]``; zero for a zero root.
    """
    norm = torch.linalg.matrix_norm(root, keepdim=True)
    empty = norm == 0
    norm = norm.masked_fill(empty, 1)
    b, c = root / norm, g / norm
    for _ in range(iterations):
        b2 = b @ b
        t = -b2
        t.diagonal(dim1=-2, dim2=-1).add_(3)
        c = (b @ c @ b - b2 @ c + c @ t) / 2
        b = b @ t / 2
    return (c / 2).masked_fill(empty, 0)
