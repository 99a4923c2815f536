"""The coupled Newton–Schulz iteration for the matrix square root (iSQRT-COV, CVPR 2018), and its adjoint."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .batched_function import BatchedFunction
from .covariance import symmetric, trace_of
from .newton_schulz_eigen import newton_schulz_eigen, nonzero_trace


class _NewtonSchulz(BatchedFunction):
    """The iterate Y_N of A."""

    keeps_inputs = (0,)

    @staticmethod
    def forward(a: Tensor, iterations: int) -> tuple[Tensor, ...]:
        y, t, _, steps = _iterate(a, iterations)
        return y @ t, *steps[1:]  # the first one is A

    @staticmethod
    def gradient(kept: Sequence[Tensor], grads: Sequence[Tensor | None], constants: Sequence[Any]) -> Tensor:
        (grad,) = grads
        assert grad is not None
        return _adjoint(kept, symmetric(grad), None)


class _SmallSideEigenfree(BatchedFunction):
    """√tr · Y_N of A = X̄X̄ᵀ/tr for M < C: X̄ Z_N X̄ᵀ/√tr with Z_N of X̄ᵀX̄/tr, so that the iteration is on M×M matrices."""

    keeps_inputs = (0,)

    @staticmethod
    def forward(x: Tensor, iterations: int) -> tuple[Tensor, ...]:
        gram = x.mT @ x
        trace = nonzero_trace(gram)
        _, t, z, steps = _iterate(gram.div_(trace), iterations)
        z = t.clone() if z is None else t @ z
        return (x @ z / trace.sqrt()) @ x.mT, trace, z, *steps

    @staticmethod
    def gradient(kept: Sequence[Tensor], grads: Sequence[Tensor | None], constants: Sequence[Any]) -> Tensor:
        x, trace, z, *steps = kept
        (grad,) = grads
        assert grad is not None
        gx = symmetric(grad) @ x / trace.sqrt()
        direct = gx @ z
        inner = _adjoint(steps, None, x.mT @ gx)
        through_trace = (direct * x).sum((-2, -1), keepdim=True) / 2
        through_trace = through_trace + (inner * steps[0]).sum((-2, -1), keepdim=True)
        return 2 * (direct + (x @ inner - through_trace * x) / trace)


def _iterate(a: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor | None, list[Tensor]]:
    """Y, T and Z of the last step (Y_N = YT, Z_N = TZ), and a list of those of all steps, for `_adjoint`."""
    y: Tensor = a
    z: Tensor | None = None  # Z₀ = I, which needs no product
    t = _step(y)
    steps = [y, t]
    for _ in range(iterations - 1):
        y, z = y @ t, t if z is None else t @ z
        t = _step(z @ y)
        steps += [y, t, z]
    return y, t, z, steps


def _adjoint(steps: Sequence[Tensor], dy: Tensor | None, dz: Tensor | None) -> Tensor:
    """The gradient with respect to A, from that of Y_N or of Z_N (the other is None).

    All iterates are polynomials of A and so symmetric: Y, Z and T need no transposes.
    """
    for k in range(len(steps) // 3, 0, -1):
        y, t, z = steps[3 * k - 1 : 3 * k + 2]
        dt = _sum(None if dy is None else y @ dy, None if dz is None else dz @ z)
        dy = _sum(None if dy is None else dy @ t, z @ dt / -2)
        dz = _sum(None if dz is None else t @ dz, dt @ y / -2)
    y, t = steps[:2]
    dt = _sum(None if dy is None else y @ dy, dz)
    return symmetric(_sum(None if dy is None else dy @ t, dt / -2))


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor:
    """The sum, in which None counts as zero; one of the two is a tensor."""
    if a is not None and b is not None:
        return a + b
    one = b if a is None else a
    assert one is not None
    return one


def _step(zy: Tensor) -> Tensor:
    """T = (3I − ZY)/2."""
    eye = torch.eye(zy.shape[-1], dtype=zy.dtype, device=zy.device)
    return torch.add(1.5 * eye, zy, alpha=-0.5)


def newton_schulz(sigma: Tensor, iterations: int = 5) -> Tensor:
    """An approximate square root by matrix products only, compensated by the trace.

    A = Σ/tr Σ, Y₀ = A, Z₀ = I; T = (3I − ZY)/2, Y ← YT, Z ← TZ; the result is √(tr Σ) · Y_N. It converges from below,
    and slowly where λ ≪ tr Σ: after N steps an eigenvalue ε of A has reached about 1.5ᴺ ε of its root √ε.

    Args:
        sigma: positive semi-definite matrices ``[..., C, C]``, float32 or float64. Only the symmetric part counts.
        iterations: N ≥ 1; the paper's and upstream's value is 5.

    Returns:
        ``[..., C, C]``; zero, with a zero gradient, for a zero matrix. Differentiable once.

    Raises:
        ValueError: ``iterations`` below 1.
    """
    if iterations < 1:
        raise ValueError(f"newton_schulz takes at least one iteration, not {iterations}.")
    sigma = symmetric(sigma)
    trace = trace_of(sigma)
    empty = trace <= 0
    trace = trace.masked_fill(empty, 1)
    root: Tensor = _NewtonSchulz.apply((sigma / trace).masked_fill(empty, 0), iterations)[0]
    return trace.sqrt() * root


def newton_schulz_of_features(x: Tensor, iterations: int = 5) -> Tensor:
    """``newton_schulz(X̄X̄ᵀ)`` on the smaller side of the features, in the way that is faster on their device.

    On a CPU that is an eigendecomposition (`newton_schulz_eigen`); on a GPU, where those are slow, it is the iteration
    itself (`newton_schulz_eigenfree`).

    Args:
        x: centred features ``[..., C, M]``, float32 or float64.
        iterations: N ≥ 1.

    Returns:
        ``[..., C, C]``; the same up to rounding in both ways. Differentiable once.
    """
    if x.device.type == "cpu":
        return newton_schulz_eigen(x, iterations)
    return newton_schulz_eigenfree(x, iterations)


def newton_schulz_eigenfree(x: Tensor, iterations: int = 5) -> Tensor:
    """``newton_schulz(X̄X̄ᵀ)`` by the iteration on the smaller side, without an eigensolver.

    Args:
        x: centred features ``[..., C, M]``.
        iterations: N ≥ 1.

    Returns:
        ``[..., C, C]``, differentiable once.
    """
    if x.shape[-1] < x.shape[-2]:
        root: Tensor = _SmallSideEigenfree.apply(x, iterations)[0]
        return root
    return newton_schulz(x @ x.mT, iterations)
