"""One batched symmetric eigensolver for every device."""

import torch
from torch import Tensor

from .eigensolvers import batched_eigh


def eigh(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of symmetric matrices; one bad matrix does not spoil its batch.

    A matrix that is not finite gives NaNs, so that the loss shows it; the other matrices of the batch are right. A
    finite matrix on which the solver does not converge is tried again by itself in float64 on the CPU; in a compiled
    graph it raises at once.

    Args:
        a: symmetric matrices ``[..., n, n]``, float32 or float64. The lower triangle is read.

    Returns:
        Eigenvalues ``[..., n]`` in ascending order and eigenvectors ``[..., n, n]`` in columns.

    Raises:
        torch.linalg.LinAlgError: a finite matrix on which float64 LAPACK does not converge either.
    """
    bad = ~torch.isfinite(a.abs().amax((-2, -1), keepdim=True))
    a = a.masked_fill(bad, 0)
    try:
        values, vectors = batched_eigh(a)
    except torch.linalg.LinAlgError:
        values, vectors = _one_by_one(a)
    return values.masked_fill(bad.squeeze(-1), torch.nan), vectors.masked_fill(bad, torch.nan)


def _one_by_one(a: Tensor) -> tuple[Tensor, Tensor]:
    n = a.shape[-1]
    values, vectors = [], []
    for matrix in a.reshape(-1, n, n):
        try:
            value, vector = torch.linalg.eigh(matrix)
        except torch.linalg.LinAlgError:
            value, vector = (t.to(a) for t in torch.linalg.eigh(matrix.cpu().double()))
        values.append(value)
        vectors.append(vector)
    return torch.stack(values).reshape(a.shape[:-1]), torch.stack(vectors).reshape(a.shape)
