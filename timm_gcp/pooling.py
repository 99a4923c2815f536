"""The pooling layer: reduction, covariance, root, upper triangle."""

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .errors import GCPError
from .functional import pool_features
from .methods import get_method

__all__ = ["GlobalCovariancePool", "find_pools"]

_FORMATS = {"NCHW": 1, "NHWC": -1, "NLC": -1}
_REDUCTIONS = ("conv", "linear")
_FIRST_ORDERS = (None, "mean", "class")


class GlobalCovariancePool(nn.Module):
    """Global covariance pooling: the upper triangle of the square root of the channels' covariance.

    ``[B, C, H, W]`` (``[B, H, W, C]`` with ``input_fmt='NHWC'``, ``[B, N, C]`` with ``'NLC'``) → ``[B, R(R+1)/2]``,
    with R the number of channels after an optional reduction (``bcnn`` and ``cbp`` have widths of their own). The
    spectral part leaves autocast and runs in its own precision; the output has the dtype of the reduced features. With
    ``first_order`` a first-order vector of C numbers comes before the triangle.

    A root has no parameters: ``pool.method = 'polar'`` switches the method at any time, as the hybrid protocol does.

    If training runs out of memory in the spectral part, use both ``chunk_size`` and ``set_grad_checkpointing()``. The
    first limits the intermediate results to those of that many images. The second keeps only the input for the
    backward, which computes the rest again, chunk by chunk; without chunks it does not lower the peak, because the
    backward computes the whole batch at once. Small chunks leave a GPU idle: take the largest that fits.

    The layer compiles (``torch.compile``), exports (``torch.export``) and traces (``torch.jit.trace``). Keep
    ``chunk_size=None`` for an export or a trace, which would fix the number of chunks.

    Args:
        in_features: channels of the incoming map, C.
        method: a name of ``timm_gcp.METHODS``.
        reduce: channels R after the reduction; None or 0 keeps the channels as they are.
        dtype: precision of the spectral part; None takes the method's own (float64 for the SVD family, float32 for
            ``isqrt``, and for ``polar`` on devices other than a CPU), also after a switch of the method.
        method_args: arguments of ``method``; another method runs with its own defaults.
        input_fmt: ``'NCHW'``, ``'NHWC'`` or ``'NLC'``.
        chunk_size: number of images of a batch that the spectral part takes at a time; None takes them all. The output
            is the same up to rounding.
        reduction: ``'conv'`` reduces by a 1×1 convolution, batch norm and ReLU; ``'linear'`` by the 1×1 convolution
            alone, without a bias, which commutes with the covariance: cov(WX) = W cov(X) Wᵀ.
        first_order: ``'mean'`` puts the mean of the incoming map before the triangle, ``'class'`` the vector that
            ``forward`` is given (the class token of a ViT); None nothing.

    Attributes:
        reduce: the reduction, an ``nn.Module``; its output is the map whose covariance is taken.
        channels: R.
        out_features: R(R+1)/2, the width of the output; C more with ``first_order``.
        grad_checkpointing: whether the backward computes the spectral part again instead of keeping its results.

    Raises:
        GCPError: an unknown method, argument, precision or format, or a chunk size that is no whole number of at least
            1.
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
        reduction: str = "conv",
        first_order: str | None = None,
    ) -> None:
        """See the class."""
        super().__init__()
        if input_fmt not in _FORMATS:
            raise GCPError(f"Unknown input_fmt '{input_fmt}'; there are {', '.join(_FORMATS)}.")
        if reduction not in _REDUCTIONS:
            raise GCPError(f"Unknown reduction '{reduction}'; there are {', '.join(_REDUCTIONS)}.")
        if first_order not in _FIRST_ORDERS:
            raise GCPError(f"Unknown first_order '{first_order}'; there are mean and class, or None for neither.")
        self.chunk_size = chunk_size
        self.in_features = in_features
        self.channels = reduce or in_features
        self.dtype = dtype
        self.input_fmt = input_fmt
        self.chunk_size = chunk_size
        self.grad_checkpointing = False
        self.reduction = reduction
        self.first_order = first_order
        self.reduce: nn.Module = _reduction(in_features, reduce, reduction) if reduce else nn.Identity()
        row = get_method(method)
        row.check_args(method_args or {})
        if dtype is not None:
            row.check_dtype(dtype)
        self._method = row.name
        self._args = {row.name: dict(method_args or {})}

    @property
    def method(self) -> str:
        """The current method; set it to the name of another method to switch."""
        return self._method

    @method.setter
    def method(self, name: str) -> None:
        row, width = get_method(name), self._width(name)
        if width != self.out_features:
            raise GCPError(
                f"Method '{name}' gives {width} features where '{self._method}' gives {self.out_features}: "
                f"the classifier would not fit; create a model with '{name}'."
            )
        if self.dtype is not None:
            row.check_dtype(self.dtype)
        self._method = row.name

    @property
    def method_args(self) -> dict[str, Any]:
        """The arguments given for the current method; empty where its defaults hold."""
        return dict(self._args.get(self._method, {}))

    @property
    def out_features(self) -> int:
        """Width of the output vector."""
        return self._width(self._method)

    def _width(self, method: str) -> int:
        first = self.in_features if self.first_order else 0
        return first + get_method(method).width(self.channels, **self._args.get(method, {}))

    @property
    def chunk_size(self) -> int | None:
        """Number of images of a batch that the spectral part takes at a time; None for all. Can be set at any time."""
        return self._chunk_size

    @chunk_size.setter
    def chunk_size(self, size: int | None) -> None:
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise GCPError(f"chunk_size is a whole number of images of at least 1, or None for all, not {size!r}.")
        self._chunk_size = size

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Sets whether the backward computes the spectral part again instead of keeping its results.

        Saves memory in training: only the input of the spectral part, the reduced map, is kept. It costs a second
        forward of that part; the reduction is not computed again.

        Args:
            enable: False keeps all results.
        """
        self.grad_checkpointing = enable

    def forward(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        """Pools a feature map.

        Args:
            x: the map, laid out as ``input_fmt`` says.
            first: the vector ``[B, C]`` that ``first_order='class'`` puts before the triangle; otherwise not given.

        Raises:
            GCPError: the input does not have the channels or the dimensions that ``input_fmt`` says, or ``first`` is
                missing or not expected.
        """
        if isinstance(x, torch.fx.Proxy):  # one node of a tracer's graph: control flow inside depends on shapes
            given = (x,) if first is None else (x, first)
            return x.tracer.create_proxy("call_module", x.tracer.path_of_module(self), given, {})
        if (first is None) == (self.first_order == "class"):
            raise GCPError("first_order='class' takes the class token as a second argument, and nothing else does.")
        dim = _FORMATS[self.input_fmt]
        if x.dim() != len(self.input_fmt) or x.shape[dim] != self.in_features:
            raise GCPError(
                f"GlobalCovariancePool takes {self.input_fmt} input with {self.in_features} channels, "
                f"not a tensor of shape {list(x.shape)}."
            )
        x = x if dim == 1 else x.movedim(dim, 1)  # a movedim without effect stops torch's compiler at dynamic sizes
        x = x if x.dim() == 4 else x.unsqueeze(-1)
        if self.first_order == "mean":
            first = x.mean((2, 3))
        second = self._vector(self.reduce(x).flatten(2))
        return second if first is None else torch.cat([first.to(second.dtype), second], 1)

    def _vector(self, x: Tensor) -> Tensor:
        # The method is bound here, so that a switch before the backward does not change what the backward computes.
        compute: Callable[[Tensor], Tensor] = functools.partial(
            pool_features, method=self._method, dtype=self.dtype, **self.method_args
        )
        if self.grad_checkpointing:
            compute = functools.partial(checkpoint, compute, use_reentrant=False, preserve_rng_state=False)
        if self.chunk_size is None:
            return compute(x)
        return torch.cat([compute(part) for part in torch.split(x, self.chunk_size)])

    # What timm's models expect of a pooling layer.
    @property
    def pool_type(self) -> str:
        """The current method, which timm saves as ``global_pool`` and passes to ``reset_classifier`` on loading."""
        return self._method

    def feat_mult(self) -> float:
        """The factor from incoming channels to outgoing features."""
        return self.out_features / self.in_features

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        dtype = f", dtype={self.dtype}" if self.dtype else ""
        chunk = f", chunk_size={self.chunk_size}" if self.chunk_size else ""
        return f"{self.in_features}, method='{self.method}', out_features={self.out_features}{dtype}{chunk}"


def _reduction(in_features: int, out_features: int, kind: str) -> nn.Module:
    conv = nn.Conv2d(in_features, out_features, 1, bias=False)
    if kind == "linear":
        nn.init.orthogonal_(conv.weight)
        return nn.Sequential(OrderedDict(conv=conv))
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(
        OrderedDict(conv=conv, norm=nn.BatchNorm2d(out_features), act=nn.ReLU(inplace=True)),
    )


def find_pools(model: nn.Module) -> list[GlobalCovariancePool]:
    """Every covariance pool inside a model, also through DDP and compile wrappers."""
    return [module for module in model.modules() if isinstance(module, GlobalCovariancePool)]
