"""The exact root by matrix products, forward and backward: the polar decomposition of the features themselves.

X̄ = H P, with the Hermitian factor H = (X̄X̄ᵀ)^½, the root that is wanted, and a partial isometry P (Higham, Functions of
Matrices, ch. 8). Newton–Schulz on X̄ takes its singular values to one and leaves its vectors alone,

    P₀ = X̄/‖X̄‖,   P ← (3aP − a³PPᵀP)/2,   H = P X̄ᵀ,

and never meets the square of a condition number, as an iteration on the covariance does: float32 is enough, where a
Gram matrix in float32 loses all singular values under 3·10⁻⁴ of the largest. a is the scaling that makes the cubic
best on the interval that the singular values have reached (Chen & Chow, A stable scaling of Newton–Schulz for improving
the sign function computation of a Hermitian matrix, 2014): 14 steps from 10⁻⁴ to one, 25 from 10⁻⁸.

The gradient needs neither singular vectors nor the steps of the forward: with B = PᵀX̄ = (X̄ᵀX̄)^½ and BZ + ZB = PᵀGP,

    ∂L/∂X̄ = 2 (GP − X̄Z),

the formula of `function` with (I − UUᵀ)GU and (UᵀGU) ∘ (s_j/(s_i + s_j)) put together. A singular value under the
smallest that the steps are made for counts for less, and for nothing at zero: a smooth cut.
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

    a² = 3/(1 + ℓ + ℓ²) gives both ends of [ℓ, 1] the same image, the smallest of any point between. One's is a small
    difference, 3 − a²: ℓ counts as 0.1 at least, so that the rounding of a singular value near one stays small.

    Args:
        smallest: ℓ, above 0.
        eps: how close to one, about.

    Returns:
        A factor a step, between 1 and √3.
    """
    factors = []
    low = smallest
    while 1 - low > math.sqrt(eps):  # the last step squares what is left
        safe = max(low, 0.1)
        factors.append(math.sqrt(3 / (1 + safe + safe * safe)))
        low *= factors[-1]
        low *= (3 - low * low) / 2
    return (*factors, 1.0)


_TF32 = "tf32"

SMALLEST: dict[torch.dtype | str, float] = {torch.bfloat16: 1e-2, _TF32: 3e-3, torch.float32: 1e-4, torch.float64: 1e-8}
"""By precision, the smallest singular value, a share of ‖X̄‖_F, that is taken to one; rounding grows by its inverse."""

DTYPES = (torch.bfloat16, torch.float32, torch.float64)
"""What the products can be made in."""


def _eps(precision: torch.dtype | str) -> float:
    return 2.0**-10 if isinstance(precision, str) else torch.finfo(precision).eps


_SCALINGS = {precision: scalings(smallest, _eps(precision)) for precision, smallest in SMALLEST.items()}


@torch.compiler.assume_constant_result
def _float32_products() -> str:
    """The precision that torch has been told to give float32 products; timm's scripts allow TF32."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # set by torch's newer names, which forbid the question
        return "high"


def steps_in(products: torch.dtype) -> tuple[float, ...]:
    """The steps for what products in this dtype really resolve."""
    if products == torch.float32 and (told := _float32_products()) != "highest":
        return _SCALINGS[_TF32 if told == "high" else torch.bfloat16]
    return _SCALINGS[products]


def _wide(shape: Sequence[int]) -> bool:
    """Whether the transpose is iterated on: the products are of the Gram matrix of columns."""
    return shape[-1] >= shape[-2]


def _decompose(x: Tensor, products: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """X̄/‖X̄‖, or its transpose (`_wide`), and the isometry of that; then the root H of X̄, in its dtype."""
    norm = x.square().sum((-2, -1), keepdim=True).sqrt()
    unit = x / torch.where(norm > 0, norm, 1)
    tall = (unit.mT if _wide(x.shape) else unit).to(products)
    p = tall.reshape(-1, *tall.shape[-2:])
    for a in steps_in(products):
        p = torch.baddbmm(p, p, p.mT @ p, beta=1.5 * a, alpha=a**3 / -2)  # one rounding, at the end
    p = p.reshape(tall.shape)
    root = p.mT @ tall if _wide(x.shape) else p @ tall.mT
    return tall, p, symmetric(root.to(x.dtype)) * norm


class _PolarRoot(BatchedFunction):
    @staticmethod
    def forward(x: Tensor, products: torch.dtype) -> tuple[Tensor, ...]:  # type: ignore[override]
        tall, p, root = _decompose(x, products)
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
    """(X̄X̄ᵀ)^½ by matrix products, forward only: `polar_root` in operations that every runtime has.

    Args:
        x: centred features ``[..., C, M]``, float32 or float64.

    Returns:
        ``[..., C, C]``; zero for zero features.
    """
    return _decompose(x, x.dtype)[-1]


def polar_root(x: Tensor, products: torch.dtype | None = None) -> Tensor:
    """(X̄X̄ᵀ)^½ and its exact gradient by matrix products alone, for devices whose eigensolvers are slow.

    Relative errors against float64 singular vectors, 256 channels on a 14×14 map: in float32 10⁻⁶ of the root and 10⁻⁴
    of the gradient up to a condition number of 10² (5·10⁻⁶ and 10⁻² at 10⁴); in float64 10⁻¹⁴ and 10⁻⁸ at either; in
    bfloat16 10⁻² of the root, and of the gradient 0.02 on ReLU features of condition 30, more where singular values
    are cut. Where torch may make float32 products in less (``torch.set_float32_matmul_precision``, TF32), so are these.

    Args:
        x: centred features ``[..., C, M]``, float32 or float64.
        products: precision of the products, bfloat16 (accumulated in float32, as every device does), float32 or
            float64; None takes that of ``x``.

    Returns:
        ``[..., C, C]``, symmetric, in the dtype of ``x``; zero, with a zero gradient, for zero features.
        Differentiable once.
    """
    return _PolarRoot.apply(x, products or x.dtype)[0]
