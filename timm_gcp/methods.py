"""The table of methods, and the two functions that take a method by name.

A method is a way to compute the square root of a covariance and its gradient. A new method is a new row of ``_ROWS``.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .errors import GCPError
from .spectral.covariance import binary_scale, centre, rescale
from .spectral.function import Scalar, of_features, of_sigma
from .spectral.loewner import Rule, exact, k_pade, k_svd, through_eigenvectors
from .spectral.newton_schulz import newton_schulz

__all__ = ["METHODS", "Method", "covariance_sqrt", "get_method", "matrix_sqrt"]


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: the suffix of a registered model, and what ``method=`` takes.
        forward: what the output is, in words.
        backward: what the gradient is, in words.
        reference: where it was published.
        dtype: the precision of the spectral part unless the caller asks for another.
        of_features: centred features ``[..., C, M]`` and the method's arguments → ``[..., C, C]``.
        of_sigma: symmetric matrices ``[..., C, C]`` and the method's arguments → ``[..., C, C]``.
    """

    name: str
    forward: str
    backward: str
    reference: str
    dtype: torch.dtype
    of_features: Callable[..., Tensor]
    of_sigma: Callable[..., Tensor]

    @property
    def summary(self) -> str:
        """One line for a table: forward and backward."""
        return f"{self.forward}; backward: {self.backward}"

    @property
    def defaults(self) -> dict[str, Any]:
        """The method's arguments with the papers' values."""
        return {p.name: p.default for p in list(inspect.signature(self.of_sigma).parameters.values())[1:]}

    def check_args(self, method_args: Mapping[str, Any]) -> None:
        """Refuses an argument that the method does not take.

        Raises:
            GCPError: naming the arguments that it does take.
        """
        unknown = [name for name in method_args if name not in self.defaults]
        if unknown:
            takes = ", ".join(self.defaults) or "none"
            raise GCPError(f"Method '{self.name}' has no argument '{unknown[0]}'; the arguments it takes: {takes}.")


def _newton_schulz_of_features(x: Tensor, iterations: int = 5) -> Tensor:
    return newton_schulz(x @ x.mT, iterations)


def _spectral(name: str, backward: str, reference: str, rule: Rule, f: Scalar = torch.sqrt) -> Method:
    """A row of the SVD family: the exact root in float64, and a rule for the Loewner matrix."""

    def features(x: Tensor) -> Tensor:
        return of_features(x, f, rule)

    def sigma(s: Tensor) -> Tensor:
        return of_sigma(s, f, rule)

    return Method(name, "exact root", backward, reference, torch.float64, features, sigma)


_ROWS = (
    Method(
        "isqrt",
        "coupled Newton–Schulz, 5 iterations, compensated by the trace",
        "its adjoint, by hand",
        "Li, Xie, Wang, Gao: iSQRT-COV, CVPR 2018",
        torch.float32,
        _newton_schulz_of_features,
        newton_schulz,
    ),
    _spectral(
        "svd",
        "the ordinary SVD gradient, 1/(λi − λj) with an overflow check",
        "Li, Xie, Wang, Zuo: MPN-COV, ICCV 2017; Ionescu, Vantzos, Sminchisescu, ICCV 2015",
        through_eigenvectors(k_svd),
    ),
    _spectral(
        "svdpade",
        "diagonal Padé approximant of the series of 1/(λi − λj)",
        "Song, Sebe, Wang, ICCV 2021, §4",
        through_eigenvectors(k_pade),
    ),
    _spectral(
        "polar",
        "exact, 1/(√λi + √λj); from features bounded by √2 times the incoming gradient",
        "timm_gcp; Higham, Functions of Matrices, ch. 3; Araki & Yamagami 1981",
        exact,
    ),
)

METHODS: Mapping[str, Method] = MappingProxyType({row.name: row for row in _ROWS})
"""Every method by name; read-only."""


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of an error message: the near matches of a mistyped name, or nothing."""
    near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else "."


def get_method(name: str) -> Method:
    """The row of a method.

    Raises:
        GCPError: no such method; the message names those there are and the near matches.
    """
    if name not in METHODS:
        raise GCPError(f"Unknown method '{name}'; there are {', '.join(METHODS)}{nearest(name, METHODS)}")
    return METHODS[name]


def covariance_sqrt(
    x: Tensor, method: str = "svdpade", *, dtype: torch.dtype | None = None, **method_args: Any
) -> Tensor:
    """The square root of the covariance of a batch of features.

    Centring, covariance and root run outside autocast, in the method's own precision. Scaling the features by c
    scales the result by c, over the whole range of the input's dtype.

    Args:
        x: features ``[..., C, M]``, C channels at M positions, any floating dtype.
        method: a name of ``METHODS``.
        dtype: precision of the spectral part, float32 or float64; None takes the method's own.
        **method_args: the method's arguments (``METHODS[method].defaults``).

    Returns:
        ``[..., C, C]``, symmetric, in the dtype of ``x``. Differentiable once.

    Raises:
        GCPError: an unknown method or argument, or features without positions or channels.
    """
    row = get_method(method)
    row.check_args(method_args)
    if x.dim() < 2 or 0 in x.shape[-2:] or not x.is_floating_point():
        raise GCPError(
            f"covariance_sqrt takes floating-point features [..., channels, positions] with at least one of each, "
            f"not {x.dtype} of shape {list(x.shape)}."
        )
    with torch.autocast(x.device.type, enabled=False):
        # Scaled before anything is summed or cast down: no finite input overflows.
        work = x.to(torch.promote_types(x.dtype, dtype or row.dtype))
        scale = binary_scale(work)
        one = torch.ones_like(scale)
        x_scaled = rescale(work, 1 / scale, one)
        root = row.of_features(centre(x_scaled.to(dtype or row.dtype)), **method_args)
        return rescale(root.to(work.dtype), scale, one).to(x.dtype)


def matrix_sqrt(
    sigma: Tensor, method: str = "svdpade", *, dtype: torch.dtype | None = None, **method_args: Any
) -> Tensor:
    """The square root of a batch of given symmetric positive semi-definite matrices.

    For people outside image classification. Where the features themselves are at hand, ``covariance_sqrt`` is faster
    and its exact gradient is bounded.

    Args:
        sigma: ``[..., C, C]``, any floating dtype. Only the symmetric part counts; negative eigenvalues count as zero.
        method: a name of ``METHODS``.
        dtype: precision of the computation, float32 or float64; None takes the method's own.
        **method_args: the method's arguments (``METHODS[method].defaults``).

    Returns:
        ``[..., C, C]``, symmetric, in the dtype of ``sigma``. Differentiable once.

    Raises:
        GCPError: an unknown method or argument, or matrices that are not square.
    """
    row = get_method(method)
    row.check_args(method_args)
    if sigma.dim() < 2 or sigma.shape[-1] != sigma.shape[-2] or not sigma.shape[-1] or not sigma.is_floating_point():
        raise GCPError(
            f"matrix_sqrt takes floating-point square matrices [..., C, C], not {sigma.dtype} of shape "
            f"{list(sigma.shape)}."
        )
    with torch.autocast(sigma.device.type, enabled=False):
        work = sigma.to(torch.promote_types(sigma.dtype, dtype or row.dtype))
        # Σ scales by the square of what its root scales by: an even power of two, to stay exact.
        half = torch.exp2(torch.floor(torch.log2(binary_scale(work)) / 2))
        scaled = rescale(work, half**-2, 1 / half)
        root = row.of_sigma(scaled.to(dtype or row.dtype), **method_args)
        return rescale(root.to(work.dtype), half, torch.ones_like(half)).to(sigma.dtype)
