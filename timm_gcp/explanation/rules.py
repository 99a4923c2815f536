"""How the output of each method is divided among the positions of a map: its degree and its exact gradient.

A function f of features X that is homogeneous of degree p, f(cX) = cᵖ f(X), is the sum over its columns of the inner
products with its gradient, divided by p (Euler): f(X) = Σ_m ⟨x_m, ∂f/∂x_m⟩ / p. For a function of the covariance
Σ = X̄X̄ᵀ with G = ∂f/∂Σ the share of position m is 2 x̄ₘᵀGx̄ₘ / p: x̄ₘᵀGx̄ₘ for the covariance itself (p = 2), twice that
for a root (p = 1).

The gradient is that of the function which the forward computes, not the one that a method trains with: the published
backward rules of the exact root (clipped, Taylor, Padé, ...) change ∂f/∂x_m and keep the sum.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import GCPError
from ..functional import pool_features
from ..methods import get_method
from ..spectral.covariance import centre, symmetric, triangle
from ..spectral.matrix_pade import Approximant, pade_root, taylor_root

__all__ = ["Rule", "rule_of"]

_OWN = ("isqrt", "svdtopn", "svdlyap", "polar", "rsqrt", "cov", "bdc")
"""Methods whose own gradient is exact."""

_EXACT_ROOTS = ("svd", "svdtrunc", "svdtaylor", "svdpade", "svdnewton", "svdpi")
"""Methods that compute the root, or the power alpha, of ``polar``, and train with another gradient."""

_APPROXIMANTS: Mapping[str, Approximant] = {"mpa": pade_root, "mtp": taylor_root}
"""Methods that compute an approximant of the root, and train with a gradient of the exact root."""

_SCALE_FREE = "its output does not change when the features are scaled, so that the contributions add up to zero"
_NOT_HOMOGENEOUS = "its output is not proportional to a power of the scale of the features"
_REFUSED: Mapping[str, str] = {
    "logm": "the logarithm of the scale of the features is added to its output",
    "seb": _NOT_HOMOGENEOUS,
    "gaussian": _NOT_HOMOGENEOUS,
    "maxexp": _SCALE_FREE,
    "corr": _SCALE_FREE,
    "bcnn": _SCALE_FREE,
    "cbp": _SCALE_FREE,
    "mp": _SCALE_FREE,
}


@dataclass(frozen=True)
class Rule:
    """A homogeneous function of features, with its exact gradient.

    Attributes:
        vector: features ``[..., C, M]`` in float64 → the output vector of the method, ``[..., width]``.
        degree: p, for which features scaled by c give an output scaled by cᵖ.
        centred: whether the function depends on the centred features only.
    """

    vector: Callable[[Tensor], Tensor]
    degree: float
    centred: bool


def rule_of(method: str, method_args: Mapping[str, Any] | None = None) -> Rule:
    """The rule by which the output of a method is divided among positions.

    Args:
        method: a name of ``timm_gcp.METHODS``, or 'mp'.
        method_args: arguments of the method that differ from its defaults.

    Raises:
        GCPError: the output of the method is no sum of contributions of positions, or its gradient is not known to be
            exact; the message says why.
    """
    given = dict(method_args or {})
    if method in _REFUSED:
        raise GCPError(
            f"Method '{method}' cannot be explained, because {_REFUSED[method]}; explain a model with a root of the "
            "covariance, such as 'isqrt' or 'svdpade', or with 'cov'."
        )
    row = get_method(method)
    if method in _APPROXIMANTS:
        degree = row.complete(given)["degree"]
        return Rule(partial(_approximate_root, approximant=_APPROXIMANTS[method], degree=degree), 1.0, True)
    if method in _EXACT_ROOTS:
        method, given = "polar", {name: value for name, value in given.items() if name == "alpha"}
    elif method not in _OWN:
        raise GCPError(
            f"Method '{method}' cannot be explained, because its gradient is not known to be exact; explain a model "
            "with a method of this package, such as 'polar'."
        )
    vector = partial(pool_features, method=method, dtype=torch.float64, **given)
    return Rule(vector, row.degree(**given), row.of_sigma is not None)


def _approximate_root(x: Tensor, approximant: Approximant, degree: int) -> Tensor:
    """‖Σ‖^½ r(Σ/‖Σ‖) with the norm of Frobenius and an approximant r of the root, differentiated by autograd."""
    centred = centre(x)
    sigma = centred @ centred.mT
    norm = torch.linalg.matrix_norm(sigma, keepdim=True)
    empty = norm == 0
    norm = norm.masked_fill(empty, 1)
    return triangle((norm.sqrt() * symmetric(approximant(sigma / norm, degree))).masked_fill(empty, 0))
