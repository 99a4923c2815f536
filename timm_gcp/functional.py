"""Covariance pooling as functions: ``pool_features``, ``covariance_sqrt`` and ``matrix_sqrt``."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import GCPError
from .method import FULL_PRECISIONS, Method
from .methods import get_method
from .spectral.covariance import binary_scale, centre, rescale, triangle

__all__ = ["covariance_sqrt", "matrix_sqrt", "pool_features"]


def pool_features(
    x: Tensor, method: str = "svdpade", *, dtype: torch.dtype | None = None, **method_args: Any
) -> Tensor:
    """The output vector of a method for a batch of features: ``GlobalCovariancePool`` without its reduction.

    Args:
        x: features ``[..., C, M]``, C channels at M positions, any floating dtype.
        method: a name of ``METHODS``.
        dtype: precision of the spectral part, one of ``METHODS[method].dtypes``; None takes the method's own.
        **method_args: the method's arguments (``METHODS[method].defaults``).

    Returns:
        ``[..., METHODS[method].width(C, **method_args)]`` in the dtype of ``x``; for a function of the covariance its
        upper triangle, row by row.

    Raises:
        GCPError: an unknown method or argument, or features without positions or channels.
    """
    row = get_method(method)
    row.check_args(method_args)
    _check_tensor(x, "pool_features", "features [..., channels, positions]")
    return _scaled(row, x, dtype, method_args, finish=None if row.of_sigma is None else triangle)


def covariance_sqrt(
    x: Tensor, method: str = "svdpade", *, dtype: torch.dtype | None = None, **method_args: Any
) -> Tensor:
    """The square root of the covariance of a batch of features, or the method's other function of it.

    Centring, covariance and root run outside autocast, in the method's own precision. Scaling the features by c
    scales a root by c, over the whole range of the input's dtype.

    Args:
        x: features ``[..., C, M]``, C channels at M positions, any floating dtype.
        method: a name of ``METHODS``.
        dtype: precision of the spectral part, one of ``METHODS[method].dtypes``; None takes the method's own.
        **method_args: the method's arguments (``METHODS[method].defaults``).

    Returns:
        ``[..., C, C]``, symmetric, in the dtype of ``x``. Differentiable once.

    Raises:
        GCPError: an unknown method or argument, a method that is no function of the covariance, or features without
            positions or channels.
    """
    row = _of_covariance(method, method_args)
    _check_tensor(x, "covariance_sqrt", "features [..., channels, positions]")
    return _scaled(row, x, dtype, method_args)


def matrix_sqrt(
    sigma: Tensor, method: str = "svdpade", *, dtype: torch.dtype | None = None, **method_args: Any
) -> Tensor:
    """The square root of a batch of symmetric positive semi-definite matrices, or the method's other function of them.

    For uses other than image classification. If you have the features themselves, ``covariance_sqrt`` is faster and
    its exact gradient is bounded.

    Args:
        sigma: ``[..., C, C]``, any floating dtype. Only the symmetric part counts; negative eigenvalues count as zero.
        method: a name of ``METHODS``.
        dtype: precision of the computation, float32 or float64; None takes the method's own.
        **method_args: the method's arguments (``METHODS[method].defaults``).

    Returns:
        ``[..., C, C]``, symmetric, in the dtype of ``sigma``. Differentiable once.

    Raises:
        GCPError: an unknown method or argument, a method that is no function of the covariance, or matrices that are
            not square.
    """
    row = _of_covariance(method, method_args)
    _check_tensor(sigma, "matrix_sqrt", "square matrices [..., C, C]")
    if sigma.shape[-1] != sigma.shape[-2]:
        raise GCPError(f"matrix_sqrt takes square matrices [..., C, C], not a tensor of shape {list(sigma.shape)}.")
    return _scaled(row, sigma, dtype, method_args, sigma=True)


def _of_covariance(method: str, method_args: Mapping[str, Any]) -> Method:
    row = get_method(method)
    row.check_args(method_args)
    if row.of_sigma is None:
        raise GCPError(
            f"Method '{method}' is no function of the covariance; use pool_features or GlobalCovariancePool."
        )
    return row


def _check_tensor(x: object, caller: str, what: str) -> None:
    """Refuses what is not a dense floating-point tensor of at least two dimensions, none of the last two empty.

    Raises:
        GCPError: naming the way to make one.
    """
    takes = f"{caller} takes {what}"
    if not isinstance(x, Tensor):
        remedy = "torch.from_numpy(x)" if type(x).__module__ == "numpy" else "torch.as_tensor(x)"
        raise GCPError(f"{takes} as a torch.Tensor, not a {type(x).__module__}.{type(x).__name__}; use {remedy}.")
    if x.layout != torch.strided:
        raise GCPError(f"{takes} as a dense tensor, not a sparse one; use x.to_dense().")
    if not x.is_floating_point():
        remedy = "take a real representation of it first" if x.is_complex() else "use x.float() or x.double()"
        raise GCPError(f"{takes} in floating point, not {x.dtype}; {remedy}.")
    if x.dim() < 2 or 0 in x.shape[-2:]:
        raise GCPError(f"{takes} with at least one of each, not a tensor of shape {list(x.shape)}.")


def _scaled(
    row: Method,
    given: Tensor,
    dtype: torch.dtype | None,
    method_args: Mapping[str, Any],
    *,
    sigma: bool = False,
    finish: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Runs a method outside autocast, in its precision, on input scaled to magnitude one, and scales the result back.

    The scale is a power of two, ``unit``, for features, and its square for Σ. The input is divided by it before any sum
    and before any conversion to a smaller type, so no finite input overflows.

    Args:
        row: the method.
        given: features, or Σ.
        dtype: precision; None takes the method's own.
        method_args: the method's arguments, without those that keep their defaults.
        sigma: whether Σ is given.
        finish: applied to the method's output before it is scaled back.
    """
    if dtype is not None:
        row.check_dtype(dtype, sigma=sigma)
    dtype = dtype or (row.dtype if sigma else row.precision(given, method_args))
    power = 2 if sigma else 1
    # The meta device has no autocast.
    with contextlib.nullcontext() if given.is_meta else torch.autocast(given.device.type, enabled=False):
        work = given.to(torch.promote_types(given.dtype, torch.float32))
        unit = binary_scale(work)
        if sigma:
            unit = torch.exp2(torch.floor(torch.log2(unit) / 2))  # so that its square is an exact power of two
        scaled = rescale(work, unit**-power, torch.ones_like(unit))
        out = _computed(row, scaled, unit, dtype, row.complete(method_args), sigma=sigma)
        out = (out if finish is None else finish(out)).to(work.dtype)
        if out.dim() < work.dim():
            unit = unit.squeeze(-1)
        degree = row.degree(**method_args)
        first = min(degree, 1.0)
        out = rescale(out, unit**first, unit ** (first - power))
        if degree > first:  # in two steps: the square of unit may overflow where the output is zero
            out = out * unit ** (degree - first)
        return out.to(given.dtype)


def _computed(
    row: Method, scaled: Tensor, unit: Tensor, dtype: torch.dtype, args: dict[str, Any], *, sigma: bool
) -> Tensor:
    """The row's function of features or of Σ, that have been divided by ``unit`` or its square.

    Args:
        row: the method.
        scaled: features or Σ, float32 or float64.
        unit: ``[..., 1, 1]``, in the dtype of ``scaled``.
        dtype: precision of the spectral part.
        args: all arguments of the method.
        sigma: whether Σ is given.
    """
    if row.takes_unit:
        args["unit"] = unit.to(torch.promote_types(unit.dtype, torch.float64))
    if row.takes_matmul_dtype and not sigma:
        args["matmul_dtype"] = scaled.dtype if dtype in FULL_PRECISIONS else dtype
    dtype = torch.promote_types(dtype, torch.float32)
    if sigma:
        assert row.of_sigma is not None
        return row.of_sigma(scaled.to(dtype), **args)
    return row.of_features(scaled.to(dtype) if row.of_sigma is None else centre(scaled, dtype), **args)
