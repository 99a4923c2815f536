"""The pooling layer in matrix products alone, for runtimes without an eigensolver."""

from typing import Any

import torch
from torch import Tensor, nn

from ..methods import get_method
from ..models.deepcopy import copy_model
from ..pooling import GlobalCovariancePool, find_pools
from ..spectral.covariance import binary_scale, centre, triangle

__all__ = ["ProductPool", "pool_by_products", "with_product_pools"]


def pool_by_products(
    x: Tensor, method: str = "svdpade", *, dtype: torch.dtype | None = None, **method_args: Any
) -> Tensor:
    """What ``pool_features`` gives, forward only and by operations that every runtime has.

    A root runs in float32 (`spectral.polar`), what has to resolve small eigenvalues in float64; a method that is made
    of products anyway runs in its own precision. As in ``pool_features`` the features are scaled to magnitude one
    before anything is summed.

    Args:
        x: features ``[..., C, M]``, C channels at M positions, any floating dtype.
        method: a name of ``METHODS``.
        dtype: precision, where it is no less than the method needs; None takes that.
        **method_args: the method's arguments (``METHODS[method].defaults``).

    Returns:
        ``[..., METHODS[method].width(C, **method_args)]`` in the dtype of ``x``.

    Raises:
        GCPError: an unknown method or argument, or one that has no form in matrix products: a power ``alpha`` other
            than the root, or ``svdtopn`` that keeps fewer eigenvalues than there are.
    """
    row = get_method(method)
    row.check_args(method_args)
    if row.by_products:
        dtype = torch.promote_types(dtype or row.products_dtype, row.products_dtype)
    dtype = dtype or row.dtype
    work = x.to(torch.promote_types(x.dtype, dtype))
    unit = binary_scale(work)
    scaled = work / unit
    if row.of_sigma is not None:
        scaled = centre(scaled)
    if row.by_products:
        out = row.by_products(scaled.to(dtype), unit=unit, **method_args).to(work.dtype)
    else:
        out = row.of_features(scaled.to(dtype), **method_args).to(work.dtype)
    if row.of_sigma is not None:
        out = triangle(out)
    return (out * unit.squeeze(-1) ** row.degree(**method_args)).to(x.dtype)


class ProductPool(GlobalCovariancePool):
    """A ``GlobalCovariancePool`` of the same parameters and values, by ``pool_by_products``."""

    def _vector(self, x: Tensor) -> Tensor:
        return pool_by_products(x, self.method, dtype=self.dtype, **self.method_args)


def with_product_pools(model: nn.Module) -> nn.Module:
    """A copy of a model, in evaluation mode, whose covariance pools are made of matrix products.

    Args:
        model: any model; its pools are found wherever they are.

    Returns:
        The copy. It has the same parameters under the same names.
    """
    model = copy_model(model).eval()
    for pool in find_pools(model):
        pool.__class__ = ProductPool
    return model
