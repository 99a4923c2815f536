"""Brownian distance covariance: the distances between channels, double-centred (DeepBDC, CVPR 2022)."""

import torch
from torch import Tensor

from .covariance import triangle

_CUT = 4  # how many times the bound of the rounding of a squared distance, M · eps


def brownian_distance(x: Tensor, temperature: float) -> Tensor:
    """The double-centred matrix of distances between channels, as a triangle (Xie et al., CVPR 2022).

    D_ij = √(τ ‖x_i − x_j‖²/M), and from each entry the means of its row and its column are subtracted, and the mean of
    D is added. The published layer learns τ, from 1/2 on, and adds 10⁻⁵ under the root; here τ is a constant, which the
    scale of a reduction or of the classifier can replace, and nothing is added, so that the law of scale holds.

    At distance zero, where the root has a kink, the gradient is taken as zero. Distances under the rounding of their
    squares count as zero.

    Args:
        x: features ``[..., C, M]``, not centred.
        temperature: τ.

    Returns:
        ``[..., C(C + 1)/2]``.
    """
    x = x - x.mean(-2, keepdim=True)  # changes no distance, and leaves less to cancel
    x = x / (x.shape[-1] / temperature) ** 0.5  # not sym_sqrt, which is a constant in a trace
    products = x @ x.mT
    squares = products.diagonal(dim1=-2, dim2=-1)
    total = squares.unsqueeze(-1) + squares.unsqueeze(-2)
    between = total - 2 * products
    zero = between <= _CUT * x.shape[-1] * torch.finfo(x.dtype).eps * total
    distances = between.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)
    means = distances.mean(-1, keepdim=True)
    means = means - means.mean(-2, keepdim=True) / 2
    return triangle(distances - (means + means.mT))
