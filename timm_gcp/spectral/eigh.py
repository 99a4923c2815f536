"""The symmetric eigensolver of all methods, which isolates matrices that cannot be solved."""

from collections.abc import Callable

import torch
from torch import Tensor

from .eigensolvers import batched_eigh, recorded

_retried = 0


def eigh(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of symmetric matrices; a matrix that fails does not affect the others of its batch.

    A matrix that is not finite gives NaNs, so that the loss becomes NaN. A finite matrix on which the solver does not
    converge is solved again by itself, in float64, then on the CPU; if these fail too, it gives NaNs. In an exported or
    traced graph the solver raises immediately.

    Args:
        a: symmetric matrices ``[..., n, n]``, float32 or float64. The lower triangle is read.

    Returns:
        Eigenvalues ``[..., n]`` in ascending order and eigenvectors ``[..., n, n]`` in columns.
    """
    if torch.compiler.is_compiling() and not _exporting():
        values, vectors = _eigh_operator(a)
        return values, vectors
    return _isolated(a)


def _isolated(a: Tensor) -> tuple[Tensor, Tensor]:
    bad = ~torch.isfinite(a.abs().amax((-2, -1), keepdim=True))
    # On a GPU, waiting for this answer would take longer than the copies below.
    if a.device.type == "cpu" and not recorded(a) and not bad.any():
        return _solve(a)
    values, vectors = _solve(a.masked_fill(bad, 0))
    return values.masked_fill(bad.squeeze(-1), torch.nan), vectors.masked_fill(bad, torch.nan)


# One node of a compiled graph, which runs as the code around it does. As a node of torch's own solver it would take
# twelve times as long on a GPU (128 matrices of 49 rows, torch 2.11), and be without the second attempts.
@torch.library.custom_op("timm_gcp::eigh", mutates_args=())
def _eigh_operator(a: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = _isolated(a)
    return values.contiguous(), vectors.contiguous()


@_eigh_operator.register_fake
def _(a: Tensor) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape[:-1]), a.new_empty(a.shape)


def _exporting() -> bool:
    """Whether the graph is for another program, which has no operators of ours; torch 2.6 cannot tell."""
    return not hasattr(torch.compiler, "is_exporting") or torch.compiler.is_exporting()


def take_retried() -> int:
    """The number of matrices that had to be solved again by themselves since the last call of this function."""
    global _retried
    count, _retried = _retried, 0
    return count


def _solve(a: Tensor) -> tuple[Tensor, Tensor]:
    try:
        return batched_eigh(a)
    except torch.linalg.LinAlgError:
        return _one_by_one(a)


def _one_by_one(a: Tensor) -> tuple[Tensor, Tensor]:
    n = a.shape[-1]
    values, vectors = zip(*(_alone(matrix) for matrix in a.reshape(-1, n, n)), strict=True)
    return torch.stack(values).reshape(a.shape[:-1]), torch.stack(vectors).reshape(a.shape)


# The first attempt finds the matrices at fault, since the solver does not say which of a batch they are.
_ATTEMPTS: tuple[Callable[[Tensor], Tensor], ...] = (torch.clone, Tensor.double, lambda matrix: matrix.cpu().double())


def _alone(matrix: Tensor) -> tuple[Tensor, Tensor]:
    global _retried
    for again, prepare in enumerate(_ATTEMPTS):
        try:
            values, vectors = torch.linalg.eigh(prepare(matrix))
        except torch.linalg.LinAlgError:
            continue
        _retried += again > 0
        return values.to(matrix), vectors.to(matrix)
    _retried += 1
    return torch.full_like(matrix[0], torch.nan), torch.full_like(matrix, torch.nan)
