"""Centring, covariance, and the upper triangle of a symmetric matrix as a vector."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .batched_function import BatchedFunction

# The rounding of a mean of equal numbers stays under this many units in the last place.
_FLAT_ULPS = 8.0


def centre(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Centres features over positions: X̄ = X (I − 11ᵀ/M) / √M, so that X̄ X̄ᵀ is the covariance.

    A channel that is constant up to the rounding of its mean becomes exactly zero; otherwise the covariance of a flat
    image would consist of rounding errors. Its gradient is computed as that of any other channel.

    Args:
        x: features ``[..., C, M]``, floating point.
        dtype: of X̄ and of the computation; None takes that of ``x``.

    Returns:
        X̄, of the shape of ``x``.
    """
    out: Tensor = _Centre.apply(x, dtype or x.dtype, x.dtype)
    return out


class _Centre(BatchedFunction):
    """Written by hand, so that one copy of the features is held in place of five."""

    linear = True

    @staticmethod
    def forward(x: Tensor, dtype: torch.dtype, given: torch.dtype) -> Tensor:
        mean = x.mean(-1, keepdim=True, dtype=dtype)
        centred = x.to(dtype, copy=True).sub_(mean)  # in place: on a CPU new memory takes the longest
        largest = torch.maximum(centred.amax(-1, keepdim=True), -centred.amin(-1, keepdim=True))
        flat = largest <= _FLAT_ULPS * torch.finfo(dtype).eps * mean.abs()
        # math.sqrt would make M a constant of an exported graph
        return centred.masked_fill_(flat, 0).div_(torch.sym_sqrt(x.shape[-1]))

    @staticmethod
    def gradient(kept: Sequence[Tensor], grads: Sequence[Tensor | None], constants: Sequence[Any]) -> Tensor:
        (grad,), given = grads, constants[1]
        assert grad is not None
        mean = grad.mean(-1, keepdim=True)
        return grad.to(given, copy=True).sub_(mean).div_(torch.sym_sqrt(grad.shape[-1]))


def covariance(x: Tensor) -> Tensor:
    """The covariance of the channels, divided by M (not M − 1), as the published layers do.

    Args:
        x: features ``[..., C, M]``, floating point.

    Returns:
        Σ, ``[..., C, C]``, positive semi-definite.
    """
    centred = centre(x)
    return centred @ centred.mT


def binary_scale(x: Tensor) -> Tensor:
    """The power of two next above the largest magnitude of each matrix; 1 for a zero matrix.

    Dividing by it is exact, so a homogeneous function gains range and loses nothing.

    Args:
        x: matrices ``[..., R, N]``.

    Returns:
        ``[..., 1, 1]``, without gradient. Not finite where ``x`` is not.
    """
    largest = x.detach().abs().amax((-2, -1), keepdim=True)
    power = torch.exp2(torch.log2(largest).floor())  # not frexp: compilers and ONNX lack it
    bound = -math.frexp(torch.finfo(x.dtype).tiny)[1]
    # Next to a power of two the logarithm may round to either side.
    scale = torch.where(largest < power, power, torch.where(largest < 2 * power, 2 * power, 4 * power))
    scale = scale.clamp(2.0**-bound, 2.0**bound)
    return torch.where(largest > 0, scale, torch.where(largest == 0, 1.0, largest))


class _Rescale(BatchedFunction):
    """t · factor, with its own factor for the gradient; not ``linear``, because a second derivative would be wrong."""

    keeps_inputs = (2,)

    @staticmethod
    def forward(t: Tensor, factor: Tensor, grad_factor: Tensor) -> Tensor:
        return t * factor

    @staticmethod
    def gradient(kept: Sequence[Tensor], grads: Sequence[Tensor | None], constants: Sequence[Any]) -> Tensor:
        (grad,), (grad_factor,) = grads, kept
        assert grad is not None
        return grad * grad_factor


def rescale(t: Tensor, factor: Tensor, grad_factor: Tensor) -> Tensor:
    """Multiplies by ``factor`` in the forward and by ``grad_factor`` in the backward.

    Before and after a homogeneous function the two scales cancel in the gradient. Multiplying by one and dividing by
    the other could overflow in between.
    """
    out: Tensor = _Rescale.apply(t, factor, grad_factor)
    return out


def to_unit_norm(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Divides by the Euclidean norm over some dimensions, at every scale; zero, with a zero gradient, for zero.

    Args:
        x: floating point.
        dims: the dimensions over which the squares are summed.

    Returns:
        Of the shape of ``x``.
    """
    largest = x.detach().abs().amax(dims, keepdim=True)
    empty = largest == 0
    # A factor that the norm cancels needs no gradient, and no square under- or overflows.
    x = x / largest.masked_fill(empty, 1)
    return x / x.square().sum(dims, keepdim=True).masked_fill(empty, math.inf).sqrt()  # divides the gradient too


def trace_of(a: Tensor) -> Tensor:
    """The trace of matrices ``[..., n, n]``, as ``[..., 1, 1]``."""
    return a.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]


def _triangle_index(n: int, device: torch.device) -> Tensor:
    rows, columns = torch.triu_indices(n, n, device=device).unbind()
    return rows * n + columns


class _Triangle(BatchedFunction):
    """A gather from the flat matrix, and its adjoint, a scatter into it: faster than a boolean mask over C×C."""

    linear = True

    @staticmethod
    def forward(y: Tensor) -> Tensor:
        return y.flatten(-2).index_select(-1, _triangle_index(y.shape[-1], y.device))

    @staticmethod
    def gradient(kept: Sequence[Tensor], grads: Sequence[Tensor | None], constants: Sequence[Any]) -> Tensor:
        (grad,), n = grads, constants[-1][-1]
        assert grad is not None
        out = grad.new_zeros(*grad.shape[:-1], n * n).index_copy(-1, _triangle_index(n, grad.device), grad)
        return out.view(*grad.shape[:-1], n, n)


def triangle(y: Tensor) -> Tensor:
    """The upper triangle of a square matrix, row by row, diagonal included, without a √2 on the off-diagonal.

    Args:
        y: matrices ``[..., C, C]``.

    Returns:
        ``[..., C(C+1)/2]``: y₀₀, y₀₁, …, y₀,C₋₁, y₁₁, y₁₂, …
    """
    out: Tensor = _Triangle.apply(y)
    return out


def symmetric(a: Tensor) -> Tensor:
    """The symmetric part of a square matrix, (A + Aᵀ)/2.

    For the gradient of a function of a symmetric matrix this is the gradient with respect to that matrix: the gradient
    of the upper triangle is spread over both halves.
    """
    return (a + a.mT).div_(2)
