"""The eigenpairs of a covariance, from the smaller side of the features."""

from typing import NamedTuple

import torch
from torch import Tensor

from .eigh import eigh


class Factor(NamedTuple):
    """A thin singular value decomposition X̄ = U S Wᵀ without its null space.

    Attributes:
        u: left vectors ``[..., C, r]``, r = min(C, M); the eigenvectors of Σ. A cut direction is a zero column.
        s: singular values ``[..., r]``, ascending; the square roots of Σ's eigenvalues. Zero where cut.
        w: right vectors ``[..., M, r]``. A cut direction is a zero column.
    """

    u: Tensor
    s: Tensor
    w: Tensor


def kept(eigenvalues: Tensor, size: int) -> Tensor:
    """Which eigenvalues of a positive semi-definite matrix are above its rounding: λ > size · eps · λ_max.

    Args:
        eigenvalues: ``[..., n]``, ascending.
        size: the larger side of the matrix that was multiplied out, max(C, M).

    Returns:
        Boolean mask of the same shape; all False for a zero matrix.
    """
    eps = torch.finfo(eigenvalues.dtype).eps
    return eigenvalues > size * eps * eigenvalues[..., -1:]


def kept_or_nan(eigenvalues: Tensor, size: int) -> Tensor:
    """`kept`, or NaN, so that NaNs reach the result."""
    return kept(eigenvalues, size) | torch.isnan(eigenvalues)


def factor(x: Tensor) -> Factor:
    """Factors centred features through the Gram matrix of their smaller side.

    With M < C (always, for 256 channels on 14×14 or 7×7 maps) Σ has rank at most M − 1, and the M×M matrix X̄ᵀX̄ has all
    its non-zero eigenvalues. Directions below rounding (``kept``) belong to the null space: their computed vectors
    are noise, and one such column would make every projection on the range of Σ wrong. They are set to zero instead
    of removed, because the ranks within a batch differ.

    Args:
        x: centred features ``[..., C, M]``, float32 or float64.

    Returns:
        The factor. Rows that are not finite give NaNs.
    """
    c, m = x.shape[-2:]
    gram = x.mT @ x if m < c else x @ x.mT
    eigenvalues, near = eigh(gram)
    mask = kept_or_nan(eigenvalues, max(c, m))
    s = torch.where(mask, eigenvalues, 0).sqrt()
    near = near.mul_(mask.unsqueeze(-2))
    inverse = torch.where(mask, s, 1).reciprocal().unsqueeze(-2)
    far = ((x @ near) if m < c else (x.mT @ near)).mul_(inverse)
    return Factor(far, s, near) if m < c else Factor(near, s, far)
