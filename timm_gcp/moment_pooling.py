"""The pooling layer of Moment Probing: cross-covariances of groups of channels, compressed by two convolutions."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from .errors import GCPError
from .map_pool import MapPool
from .pool_options import PoolOptions, is_whole

__all__ = ["GROUPS", "MOMENT_POOL", "WIDTH", "MomentPool", "moment_pool"]

MOMENT_POOL = "mp"
"""What a model with this layer is named by: ``<backbone>_mp``."""

WIDTH, GROUPS = 512, 4
"""Channels after the reduction, and groups of them, by default."""
_LEAST_GROUP = 7
"""Two 3×3 convolutions of stride 2 leave one number of a 7×7 matrix, and none of a smaller one."""
_EPS = 1e-6
"""Far above the rounding of a covariance of normalised channels in float32, far below its columns."""


class MomentPool(MapPool):
    """Multi-head convolutional cross-covariance (MHC³), the second-order part of Moment Probing.

    ``[B, C, H, W]`` (``[B, H, W, C]`` with ``input_fmt='NHWC'``, ``[B, N, C]`` with ``'NLC'``) → ``[B, (G − 1)·n²]``,
    after the vectors of ``first_order``. A 1×1 convolution with bias gives R channels in G groups of d = R/G. At each
    position every group passes a LayerNorm, whose weights all groups share. With X_k the centred d×M matrix of group k
    over M positions, the cross-covariance of neighbouring groups is S_k = X_k X_{k+1}ᵀ / M, k = 1 … G − 1, and every
    column of it is divided by its length. Two 3×3 convolutions of stride 2 without padding or bias, GELU between them,
    take the G − 1 matrices as channels and leave n×n numbers of each: 31×31 for d = 128. The classifier is one linear
    layer on the first-order vector and these numbers, which is what the paper's average of two classifiers amounts to.

    Gao, Wang, Lin, Zhu, Hu, Zhang: Tuning Pre-trained Model via Moment Probing, ICCV 2023, section 3.2; sizes as in the
    authors' models.

    Cross-covariances leave autocast and are computed in float32, or in float64 where the input is.

    Args:
        in_features: channels of the incoming map, C.
        reduce: channels after the 1×1 convolution, R.
        groups: G.
        input_fmt: ``'NCHW'``, ``'NHWC'`` or ``'NLC'``.
        first_order: ``'mean'`` puts the mean of the incoming map before the numbers, ``'class'`` the vector that
            ``forward`` is given (the class token of a ViT), ``'mean+class'`` one after the other; None nothing.

    Attributes:
        reduce: the 1×1 convolution, as ``reduce.conv``.
        channels: R.
        out_features: width of the output.

    Raises:
        GCPError: an unknown format or first-order vector, or a number of groups that does not fit.
    """

    def __init__(
        self,
        in_features: int,
        reduce: int = WIDTH,
        groups: int = GROUPS,
        input_fmt: str = "NCHW",
        first_order: str | None = None,
    ) -> None:
        """See the class."""
        super().__init__(in_features, input_fmt, PoolOptions(first_order=first_order, groups=groups))
        if not is_whole(reduce) or groups < 2 or reduce % groups or reduce // groups < _LEAST_GROUP:
            raise GCPError(
                f"Moment Probing cannot divide reduce={reduce} channels into groups={groups}: give two groups or more, "
                f"and for each of them {_LEAST_GROUP} channels or more."
            )
        self.channels = reduce
        pairs, size = groups - 1, reduce // groups
        self.reduce = nn.Sequential(OrderedDict(conv=nn.Conv2d(in_features, reduce, 1)))
        self.norm = nn.LayerNorm(size)
        self.compress = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(pairs, pairs, 3, stride=2, bias=False),
                act=nn.GELU(),
                conv2=nn.Conv2d(pairs, pairs, 3, stride=2, bias=False),
            )
        )

    @property
    def method(self) -> str:
        """``'mp'``. There is no other: the weights of this layer are no function of a covariance's root."""
        return MOMENT_POOL

    @method.setter
    def method(self, name: str) -> None:
        if name != MOMENT_POOL:
            raise GCPError(f"Moment Probing has no root that '{name}' could compute; create a model with '{name}'.")

    @property
    def out_features(self) -> int:
        """Width of the output vector."""
        side = ((self.channels // self.options.groups - 1) // 2 - 1) // 2
        return (self.options.groups - 1) * side**2 + self.in_features * len(self.options.first_order_parts)

    def _second_order(self, x: Tensor) -> Tensor:
        return self.compress(self._cross_covariances(self.reduce(x).flatten(2))).flatten(1)  # type: ignore[no-any-return]

    def _cross_covariances(self, x: Tensor) -> Tensor:
        """``[B, R, M]`` → ``[B, G − 1, d, d]`` with columns of unit length, in the dtype of the input."""
        with torch.autocast(x.device.type, enabled=False):
            wide = x if x.dtype == torch.float64 else x.float()
            tokens = wide.unflatten(1, (self.options.groups, -1)).mT  # [B, G, M, d]
            weight, bias = self.norm.weight.to(wide.dtype), self.norm.bias.to(wide.dtype)
            tokens = nn.functional.layer_norm(tokens, self.norm.normalized_shape, weight, bias, self.norm.eps)
            tokens = tokens - tokens.mean(2, keepdim=True)
            cross = tokens[:, :-1].mT @ tokens[:, 1:] / tokens.shape[2]
            unit = cross / (cross.square().sum(2, keepdim=True) + _EPS**2).sqrt()
        return unit.to(x.dtype)

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return f"{self.in_features}, groups={self.options.groups}, out_features={self.out_features}"


def moment_pool(
    in_features: int, reduce: int | None, input_fmt: str, dtype: torch.dtype | None = None, **given: Any
) -> MomentPool:
    """A `MomentPool` from the arguments of ``graft``.

    Args:
        in_features: channels of the incoming map.
        reduce: channels after the 1×1 convolution; None takes 512, or those of the map where they are fewer.
        input_fmt: layout of the map.
        dtype: precision of a spectral part; there is none, so not given.
        **given: options of the pool, defaults included; only ``first_order`` and ``groups`` may differ from theirs.

    Raises:
        GCPError: an argument that belongs to covariance pools.
    """
    foreign = {"method_args": given.pop("method_args", None) or None, "chunk_size": given.pop("chunk_size", None)}
    options = PoolOptions(**given)
    foreign.update(options.given(), dtype=dtype, first_order=None, groups=None)
    for name, value in foreign.items():
        if value is not None:
            raise GCPError(f"Moment Probing takes reduce, groups and first_order, and no {name}; leave it out.")
    groups = GROUPS if options.groups == 1 else options.groups
    width = min(WIDTH, in_features) // groups * groups if reduce is None else reduce
    return MomentPool(in_features, width, groups, input_fmt, options.first_order)
