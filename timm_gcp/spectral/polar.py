"""The exact root without an eigensolver, forward and backward, by the polar decomposition of the features.

X̄ = H P, with the Hermitian factor H = (X̄X̄ᵀ)^½, which is the root, and a partial isometry P (Higham, Functions of
Matrices, ch. 8). Newton–Schulz on X̄ takes its singular values to one and does not change its singular vectors,

    P₀ = X̄/‖X̄‖,   P ← (3aP − a³PPᵀP)/2,   H = P X̄ᵀ.

An iteration on the covariance depends on the condition number of Σ, this one on its square root. So float32 is enough,
whereas a Gram matrix in float32 loses all singular values under 3·10⁻⁴ of the largest. The scaling a is the best for
the cubic on the interval that the singular values have reached (Chen & Chow, A stable scaling of Newton–Schulz for
improving the sign function computation of a Hermitian matrix, 2014): 14 steps from 10⁻⁴ to one, 25 from 10⁻⁸.

The gradient needs neither singular vectors nor the steps of the forward: with B = PᵀX̄ = (X̄ᵀX̄)^½ and BZ + ZB = PᵀGP,

    ∂L/∂X̄ = 2 (GP − X̄Z),

the formula of `spectral_function.of_features` with its terms (I − UUᵀ)GU and (UᵀGU) ∘ (s_j/(s_i + s_j)) combined. A
singular value below the smallest one that the number of steps allows for gets a smaller weight, down to none at zero: a
smooth cut.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .batched_function import BatchedFunction
from .covariance import symmetric
from .lyapunov import lyapunov


def scalings(smallest: float, eps: float) -> tuple[float, ...]:
    """The factors a of the steps that take [smallest, 1] to one.

    With a² = 3/(1 + ℓ + ℓ²) both ends of [ℓ, 1] have the same image, and no point between has a smaller one. The image
    of one contains the difference 3 − a², which is small for a small ℓ, and its rounding is then large: ℓ is taken as
    at least 0.1.

    Args:
        smallest: ℓ, above 0.
        eps: how close to one, approximately.

    Returns:
        One factor per step, between 1 and √3.
    """
    factors = []
    low = smallest
    while 1 - low > math.sqrt(eps):  # the last step squares the distance
        safe = max(low, 0.1)
        factors.append(math.sqrt(3 / (1 + safe + safe * safe)))
        low *= factors[-1]
        low *= (3 - low * low) / 2
    return (*factors, 1.0)


_TF32 = "tf32"

SMALLEST: dict[torch.dtype | str, float] = {torch.bfloat16: 1e-2, _TF32: 3e-3, torch.float32: 1e-4, torch.float64: 1e-8}
"""By precision, the smallest singular value taken to one, as a share of ‖X̄‖_F; rounding grows by its inverse."""

DTYPES = (torch.bfloat16, torch.float32, torch.float64)
"""The precisions of the matrix products."""


def _eps(precision: torch.dtype | str) -> float:
    return 2.0**-10 if isinstance(precision, str) else torch.finfo(precision).eps


_SCALINGS = {precision: scalings(smallest, _eps(precision)) for precision, smallest in SMALLEST.items()}


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def _float32_matmul_precision() -> str:
    """The precision of float32 products that is set in torch; timm's scripts allow TF32."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # set through torch's newer interface, with which this one cannot be read
        return "high"


def steps_in(matmul_dtype: torch.dtype) -> tuple[float, ...]:
    """The scalings for the precision that matrix products in this dtype really have."""
    if matmul_dtype == torch.float32 and (allowed := _float32_matmul_precision()) != "highest":
        return _SCALINGS[_TF32 if allowed == "high" else torch.bfloat16]
    return _SCALINGS[matmul_dtype]


def _wide(shape: Sequence[int]) -> bool:
    """Whether the iteration is on the transpose: its products are with the Gram matrix of the columns."""
    return shape[-1] >= shape[-2]


def _decompose(x: Tensor, matmul_dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """X̄/‖X̄‖, or its transpose (`_wide`); the isometry of that; and the root H of X̄, in the dtype of X̄."""
    norm = x.square().sum((-2, -1), keepdim=True).sqrt()
    unit = x / torch.where(norm > 0, norm, 1)
    tall = (unit.mT if _wide(x.shape) else unit).to(matmul_dtype)
    p = tall.reshape(-1, *tall.shape[-2:])
    for a in steps_in(matmul_dtype):
        p = torch.baddbmm(p, p, p.mT @ p, beta=1.5 * a, alpha=a**3 / -2)  # one rounding, at the end
    p = p.reshape(tall.shape)
    root = p.mT @ tall if _wide(x.shape) else p @ tall.mT
    return tall, p, symmetric(root.to(x.dtype)) * norm


class _PolarRoot(BatchedFunction):
    @staticmethod
    def forward(x: Tensor, matmul_dtype: torch.dtype) -> tuple[Tensor, ...]:
        tall, p, root = _decompose(x, matmul_dtype)
        return root, tall, p

    @staticmethod
    def gradient(kept: Sequence[Tensor], grads: Sequence[Tensor | None], constants: Sequence[Any]) -> Tensor:
        tall, p = kept
        (grad,) = grads
        assert grad is not None
        g = symmetric(grad).to(p.dtype)
        b = symmetric(p.mT @ tall)
        if _wide(constants[-1]):  # P is pᵀ, b is H, and X̄Z = HZ'P with HZ' + Z'H = PPᵀGPPᵀ
            range_ = p.mT @ p
            z = lyapunov(b, symmetric(range_ @ g @ range_), steps_in(p.dtype))
            gx = (g - b @ z) @ p.mT
        else:
            gp = g @ p
            z = lyapunov(b, symmetric(p.mT @ gp), steps_in(p.dtype))
            gx = gp - tall @ z
        return 2 * gx.to(grad.dtype)


def hermitian_factor(x: Tensor) -> Tensor:
    """The root (X̄X̄ᵀ)^½ without a gradient: the forward of `polar_root`, in operations that every runtime has.

    Args:
        x: centred features ``[..., C, M]``, float32 or float64.

    Returns:
        ``[..., C, C]``; zero for zero features.
    """
    return _decompose(x, x.dtype)[-1]


def polar_root(x: Tensor, matmul_dtype: torch.dtype | None = None) -> Tensor:
    """The root (X̄X̄ᵀ)^½ and its exact gradient by matrix products only, for devices whose eigensolvers are slow.

    Relative errors against float64 singular vectors, 256 channels on a 14×14 map: in float32 10⁻⁶ of the root and 10⁻⁴
    of the gradient up to a condition number of 10² (5·10⁻⁶ and 10⁻² at 10⁴); in float64 10⁻¹⁴ and 10⁻⁸ at both; in
    bfloat16 10⁻² of the root, and of the gradient 0.02 on ReLU features of condition 30, more where singular values
    are cut. Where torch is allowed to compute float32 products in less (``torch.set_float32_matmul_precision``, TF32),
    the number of steps is that of the lower precision.

    Args:
        x: centred features ``[..., C, M]``, float32 or float64.
        matmul_dtype: precision of the matrix products, bfloat16 (accumulated in float32, as every device does),
            float32 or float64; None takes that of ``x``.

    Returns:
        ``[..., C, C]``, symmetric, in the dtype of ``x``; zero, with a zero gradient, for zero features.
        Differentiable once.
    """
    root: Tensor = _PolarRoot.apply(x, matmul_dtype or x.dtype)[0]
    return root
