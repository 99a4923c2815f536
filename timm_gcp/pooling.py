"""The pooling layer: reduce → covariance → root → triangle."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .errors import GCPError
from .methods import get_method, pool_features

__all__ = ["GlobalCovariancePool", "find_pools"]

_FORMATS = {"NCHW": 1, "NHWC": -1, "NLC": -1}


class GlobalCovariancePool(nn.Module):
    """Global covariance pooling: the upper triangle of the square root of the channels' covariance.

    ``[B, C, H, W]`` (``[B, H, W, C]`` with ``input_fmt='NHWC'``, ``[B, N, C]`` with ``'NLC'``) → ``[B, R(R+1)/2]``,
    with R the number of channels after an optional reduction (``bcnn`` and ``cbp`` have widths of their own). The
    spectral part leaves autocast and runs in its own precision; the output has the dtype of the reduced features.

    A root has no parameters: ``pool.method = 'polar'`` switches at any time, which is how the hybrid protocol works.

    Args:
        in_features: channels of the incoming map, C.
        method: a name of ``timm_gcp.METHODS``.
        reduce: channels R after a 1×1 convolution, batch norm and ReLU; None or 0 leaves the channels as they are,
            without any of the three.
        dtype: precision of the spectral part; None takes the method's own (float64 for the SVD family, float32 for
            ``isqrt``), also after a switch.
        method_args: arguments of ``method``; another method runs with its own defaults.
        input_fmt: ``'NCHW'``, ``'NHWC'`` or ``'NLC'``.

    Attributes:
        reduce: the reduction, an ``nn.Module``; its output is the map whose covariance is taken.
        channels: R.
        out_features: R(R+1)/2, the width of the output.

    Raises:
        GCPError: an unknown method, argument or format.
    """

    def __init__(
        self,
        in_features: int,
        method: str = "svdpade",
        reduce: int | None = 256,
        dtype: torch.dtype | None = None,
        method_args: Mapping[str, Any] | None = None,
        input_fmt: str = "NCHW",
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        if input_fmt not in _FORMATS:
            raise GCPError(f"Unknown input_fmt '{input_fmt}'; there are {', '.join(_FORMATS)}.")
        self.chunk_size = chunk_size
        self.in_features = in_features
        self.channels = reduce or in_features
        self.dtype = dtype
        self.input_fmt = input_fmt
        self.reduce: nn.Module = _reduction(in_features, reduce) if reduce else nn.Identity()
        row = get_method(method)
        row.check_args(method_args or {})
        self._method = row.name
        self._args = {row.name: dict(method_args or {})}

    @property
    def method(self) -> str:
        """The method in force; set it to the name of another to switch."""
        return self._method

    @method.setter
    def method(self, name: str) -> None:
        row = get_method(name)
        width = row.width(self.channels, **self._args.get(name, {}))
        if width != self.out_features:
            raise GCPError(
                f"Method '{name}' gives {width} features where '{self._method}' gives {self.out_features}: "
                f"the classifier would not fit; create a model with '{name}'."
            )
        self._method = row.name

    @property
    def method_args(self) -> dict[str, Any]:
        """The arguments given for the method in force; empty where its defaults hold."""
        return dict(self._args.get(self._method, {}))

    @property
    def out_features(self) -> int:
        """Width of the output vector."""
        return get_method(self._method).width(self.channels, **self.method_args)

    def forward(self, x: Tensor) -> Tensor:
        """Pools a feature map.

        Raises:
            GCPError: the input does not have the channels or the dimensions that ``input_fmt`` says.
        """
        dim = _FORMATS[self.input_fmt]
        if x.dim() != len(self.input_fmt) or x.shape[dim] != self.in_features:
            raise GCPError(
                f"GlobalCovariancePool takes {self.input_fmt} input with {self.in_features} channels, "
                f"not a tensor of shape {list(x.shape)}."
            )
        x = x.movedim(dim, 1)
        x = self.reduce(x if x.dim() == 4 else x.unsqueeze(-1))
        return self._vector(x.flatten(2))

    def _vector(self, x: Tensor) -> Tensor:
        return pool_features(x, self._method, dtype=self.dtype, **self.method_args)

    def set_grad_checkpointing(self, enable=True):
        self.grad_checkpointing = enable
    # What timm's models ask of a pooling layer.
    pool_type = "gcp"

    def feat_mult(self) -> float:
        """The factor from incoming channels to outgoing features."""
        return self.out_features / self.in_features

    def extra_repr(self) -> str:
        dtype = f", dtype={self.dtype}" if self.dtype else ""
        return f"{self.in_features}, method='{self.method}', out_features={self.out_features}{dtype}"


def _reduction(in_features: int, out_features: int) -> nn.Module:
    conv = nn.Conv2d(in_features, out_features, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(
        OrderedDict(conv=conv, norm=nn.BatchNorm2d(out_features), act=nn.ReLU(inplace=True)),
    )


def find_pools(model: nn.Module) -> list[GlobalCovariancePool]:
    """Every covariance pool inside a model, also through DDP and compile wrappers."""
    return [module for module in model.modules() if isinstance(module, GlobalCovariancePool)]
