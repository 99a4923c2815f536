"""Matrix functions without an eigensolver and without a gradient, by matrix products: for runtimes such as ONNX.

The root itself is in `polar`. Functions with a floor under the eigenvalues use the coupled Newton–Schulz iteration, run
until it has converged, in float64: the lower the floor, the worse the conditioning.
"""

import math

import torch
from torch import Tensor

from .matrix_pade import pade_parts
from .polar import hermitian_factor

_SQUARINGS = 56
_LARGEST_EXPONENT = 2.0**46  # so that the Taylor polynomial of degree three is evaluated at no more than 2⁻¹⁰


def newton_schulz_pair(a: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """√A and 1/√A by the coupled Newton–Schulz iteration (Higham, Functions of Matrices, §6.7).

    Y₀ = A, Z₀ = I; W = ZY, Y ← (3Y − YW)/2, Z ← (3Z − WZ)/2. An eigenvalue ε of A has reached min(√ε, 1.5ᴺ ε) after N
    steps. (No step contains a multiple of I, because an exported file would contain each of them.)

    Args:
        a: symmetric matrices ``[..., n, n]`` with eigenvalues in [0, 1].
        steps: N.

    Returns:
        Y_N and Z_N, ``[..., n, n]``; Y_N = A Z_N.
    """
    y, z = a, torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    for _ in range(steps):
        w = z @ y
        y, z = 1.5 * y - 0.5 * (y @ w), 1.5 * z - 0.5 * (w @ z)
    return y, z


def steps_for(condition: float) -> int:
    """Steps after which Newton–Schulz has converged for the smallest, and slowest, eigenvalue in [1/condition, 1]."""
    root, steps = condition**-0.5, 0
    while root < 1 - 1e-15:
        root *= (3 - root * root) / 2
        steps += 1
    return steps


def _smaller_side(x: Tensor) -> Tensor:
    """X̄ or X̄ᵀ, whichever has no more columns than rows: the Gram matrix of its columns is the smaller one."""
    return x if x.shape[-1] < x.shape[-2] else x.mT


def _trace(x: Tensor) -> tuple[Tensor, Tensor]:
    """The trace of Σ, ``[..., 1, 1]``, and the same as a divisor, with one in place of zero."""
    trace = x.square().sum((-2, -1), keepdim=True)
    return trace, torch.where(trace > 0, trace, 1)


def _above_floor(x: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """I + Σ/δ for δ = share · mean eigenvalue; δ (one where Σ = 0); a mask of Σ = 0; and a bound of the eigenvalues."""
    channels = x.shape[-2]
    trace, _ = _trace(x)
    empty = trace == 0
    delta = torch.where(empty, 1, trace * (share / channels))
    scaled = x / delta.sqrt()
    eye = torch.eye(channels, dtype=x.dtype, device=x.device)
    return eye + scaled @ scaled.mT, delta, empty, 1 + channels / share


def regularised_root(x: Tensor, share: float) -> Tensor:
    """The regularised root √(Σ + δ) − √δ, computed as √δ (√(I + Σ/δ) − I).

    Args:
        x: centred features ``[..., C, M]``, float64.
        share: δ as a share of the mean eigenvalue.

    Returns:
        ``[..., C, C]``; zero for zero features.
    """
    a, delta, empty, bound = _above_floor(x, share)
    y, _ = newton_schulz_pair(a / bound, steps_for(bound))
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    return torch.where(empty, 0, delta.sqrt() * (math.sqrt(bound) * y - eye))


def regularised_log(x: Tensor, share: float, unit: Tensor) -> Tensor:
    """The logarithm log(unit² (Σ + δ)) by repeated roots: log A = 2ᵏ asinh((B − B⁻¹)/2) for B = A^(1/2ᵏ).

    Newton–Schulz gives B and B⁻¹ together, and asinh needs four terms of its series where B is near I.

    Args:
        x: centred features ``[..., C, M]``, float64, divided by ``unit``.
        share: δ as a share of the mean eigenvalue.
        unit: ``[..., 1, 1]``, float64.

    Returns:
        ``[..., C, C]``; zero for zero features.
    """
    b, delta, empty, bound = _above_floor(x, share)
    eye = torch.eye(b.shape[-1], dtype=b.dtype, device=b.device)
    inverse = eye
    roots = max(1, math.ceil(math.log2(math.log(bound) / 0.1)))
    for _ in range(roots):
        y, z = newton_schulz_pair(b / bound, steps_for(bound))
        bound = math.sqrt(bound)
        b, inverse = bound * y, z / bound
    u = (b - inverse) / 2
    square = u @ u
    third = u @ square
    fifth = third @ square
    asinh = u - third / 6 + fifth * (3 / 40) - fifth @ square * (15 / 336)
    return torch.where(empty, 0, 2.0**roots * asinh + (delta.log() + 2 * unit.log()) * eye)


def balanced_root(x: Tensor, unit: Tensor) -> Tensor:
    """SEB: √Σ times 1 + ‖√Σ exp(−Σ)‖_F, with the original scale in the factor, which is of unit² Σ.

    ‖√Σ exp(−Σ)‖_F is computed as ‖exp(−Σ) X̄‖_F, which has no terms that cancel. exp(−Σ) − I is computed from its Taylor
    polynomial by repeated squaring, E ← 2E + E², which keeps small values.

    Args:
        x: centred features ``[..., C, M]``, float64, divided by ``unit``.
        unit: ``[..., 1, 1]``, float64.

    Returns:
        ``[..., C, C]``; zero for zero features.
    """
    _, divisor = _trace(x)
    # The bound changes exp(−λ) only for λ under 10⁻¹¹ of the trace; the exponentials of the others are zero anyway.
    scale = torch.minimum(unit.square(), _LARGEST_EXPONENT / divisor)
    tall = _smaller_side(x * scale.sqrt())
    small = tall.mT @ tall * 2.0**-_SQUARINGS
    square = small @ small
    e = square / 2 - small - square @ small / 6
    for _ in range(_SQUARINGS):
        e = 2 * e + e @ e
    decayed = tall + tall @ e
    return (1 + decayed.square().sum((-2, -1), keepdim=True).sqrt()) * hermitian_factor(x)


def pade_root(a: Tensor, degree: int) -> Tensor:
    """``matrix_pade.pade_root`` with the inverse of the denominator as the square of its inverse root.

    Args:
        a: symmetric matrices ``[..., n, n]`` with eigenvalues in [0, 1], float64.
        degree: of the approximant.

    Returns:
        ``[..., n, n]``.
    """
    even, odd = pade_parts(a, degree)
    # The coefficients of 2 · odd sum to one and are positive, so its eigenvalues lie between the first of them and one.
    smallest = (2 * degree + 1) * 2.0 ** (-2 * degree)
    _, z = newton_schulz_pair(2 * odd, steps_for(1 / smallest))
    return 2 * z @ z @ even
