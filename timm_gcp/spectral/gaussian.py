"""The mean and the covariance in one matrix, as the embedding of a Gaussian distribution (G²DeNet, CVPR 2017)."""

from collections.abc import Callable

import torch
from torch import Tensor

from .covariance import centre, rescale, triangle
from .polar import hermitian_factor
from .spectral_function import EXACT_ROOT, of_features


def gaussian_embedding(x: Tensor, unit: Tensor, beta: float) -> Tensor:
    """The square root of [[Σ + β²μμᵀ, βμ], [βμᵀ, 1]], as a triangle (Wang, Li, Zhang, CVPR 2017).

    The matrix is ZZᵀ of Z = [[X̄, βμ], [0, 1]], so its root has the exact and bounded gradient of a root of features.
    It depends on the scale of the features, so it is not homogeneous: small features approach a one in the corner. A
    direction with a standard deviation under 10⁻⁷ of the largest singular value of Z counts as constant.

    Args:
        x: features ``[..., C, M]``, not centred, divided by ``unit``.
        unit: ``[..., 1, 1]``, a power of two.
        beta: β, the weight of the mean.

    Returns:
        ``[..., (C + 1)(C + 2)/2]``, divided by ``unit``, in the dtype of ``unit``. Differentiable once.
    """
    return _embedding(x, unit, beta, lambda z: of_features(z, EXACT_ROOT)[0])


def gaussian_embedding_eigenfree(x: Tensor, unit: Tensor, beta: float) -> Tensor:
    """The value of ``gaussian_embedding`` without an eigensolver."""
    return _embedding(x, unit, beta, hermitian_factor)


def _embedding(x: Tensor, unit: Tensor, beta: float, root: Callable[[Tensor], Tensor]) -> Tensor:
    one = torch.ones_like(unit)
    scale = torch.maximum(unit, one)  # the root is of Z/scale, which has no large entries
    columns = torch.cat([centre(x), beta * x.mean(-1, keepdim=True)], -1)
    # The two factors of the gradient are inverse to each other, and are left out.
    columns = rescale(columns, (unit / scale).to(x.dtype), one.to(x.dtype))
    last = torch.nn.functional.pad((1 / scale).to(x.dtype), (x.shape[-1], 0))
    out = triangle(root(torch.cat([columns, last], -2))).to(unit.dtype)
    return rescale(out, (scale / unit).squeeze(-1), one.squeeze(-1))
