"""The pooling layer without an eigensolver, for ONNX."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import GCPError
from ..methods import get_method
from ..models.deepcopy import copy_model
from ..pooling import GlobalCovariancePool, find_pools
from ..spectral.covariance import binary_scale, centre, triangle

__all__ = ["EigenfreePool", "pool_eigenfree", "with_eigenfree_pools"]


def pool_eigenfree(
    x: Tensor, method: str = "svdpade", *, dtype: torch.dtype | None = None, **method_args: Any
) -> Tensor:
    """The value of ``pool_features`` in operations that every runtime has, without a gradient.

    A root is computed in float32 (`spectral.polar`), functions that have to resolve small eigenvalues in float64, and
    methods without an eigensolver in their own precision. As in ``pool_features`` the features are scaled to magnitude
    one before anything is summed.

    Args:
        x: features ``[..., C, M]``, C channels at M positions, any floating dtype.
        method: a name of ``METHODS``.
        dtype: precision; None, or less than the method needs, takes what it needs.
        **method_args: the method's arguments (``METHODS[method].defaults``).

    Returns:
        ``[..., METHODS[method].width(C, **method_args)]`` in the dtype of ``x``.

    Raises:
        GCPError: an unknown method or argument, or one that needs an eigensolver: a power ``alpha`` other than the
            root, ``svdtopn`` that keeps fewer eigenvalues than there are, or a registered method that has no such form.
    """
    row = get_method(method)
    row.check_args(method_args)
    if row.eigenfree is None:
        raise GCPError(
            f"Method '{method}' has no form without an eigensolver; give one as Method(eigenfree=...), or use another "
            "method."
        )
    dtype = torch.promote_types(dtype or row.eigenfree_dtype, row.eigenfree_dtype)
    work = x.to(torch.promote_types(x.dtype, dtype))
    unit = binary_scale(work)
    scaled = work / unit
    if row.of_sigma is not None:
        scaled = centre(scaled)
    out = row.eigenfree(scaled.to(dtype), unit=unit, **row.complete(method_args)).to(work.dtype)
    if row.of_sigma is not None:
        out = triangle(out)
    unit, degree = unit.squeeze(-1), row.degree(**method_args)
    out = out * unit ** min(degree, 1.0)
    return (out * unit ** (degree - 1) if degree > 1 else out).to(x.dtype)  # the square of unit may overflow


class EigenfreePool(GlobalCovariancePool):
    """A ``GlobalCovariancePool`` with the same parameters and values, computed by ``pool_eigenfree``."""

    def _pooled(self) -> Callable[[Tensor], Tensor]:
        return functools.partial(pool_eigenfree, method=self.method, dtype=self.dtype, **self.method_args)


def with_eigenfree_pools(model: nn.Module) -> nn.Module:
    """A copy of a model, in evaluation mode, whose covariance pools need no eigensolver.

    Args:
        model: any model; its pools are found wherever they are.

    Returns:
        The copy. It has the same parameters under the same names.
    """
    model = copy_model(model).eval()
    for pool in find_pools(model):
        pool.__class__ = EigenfreePool
    return model
