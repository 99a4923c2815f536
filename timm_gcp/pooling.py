"""The pooling layer: reduction, covariance, root, upper triangle."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .channel_dropout import channel_dropout_of
from .count_sketch import CountSketch
from .errors import GCPError
from .functional import pool_features
from .map_pool import MapPool
from .method import Method
from .methods import get_method
from .pool_options import PoolOptions, check_reduce
from .reduction import reduction_of

__all__ = ["GlobalCovariancePool", "find_pools"]


class GlobalCovariancePool(MapPool):
    """Global covariance pooling: the upper triangle of the square root of the channels' covariance.

    ``[B, C, H, W]`` (``[B, H, W, C]`` with ``input_fmt='NHWC'``, ``[B, N, C]`` with ``'NLC'``) → ``[B, R(R+1)/2]``,
    with R the number of channels after an optional reduction (``gaussian``, ``bcnn``, ``cbp`` have other widths). The
    spectral part leaves autocast and runs in its own precision; the output has the dtype of the reduced features. With
    ``first_order`` a first-order vector of C numbers (2C for both) comes before the triangle.

    A root has no parameters: ``pool.method = 'polar'`` switches the method at any time, as the hybrid protocol does.

    If training runs out of memory in the spectral part, use both ``chunk_size`` and ``set_grad_checkpointing()``. The
    first limits the intermediate results to those of that many images. The second keeps only the input for the
    backward, which computes the rest again, chunk by chunk; without chunks it does not lower the peak, because the
    backward computes the whole batch at once. Small chunks leave a GPU idle: take the largest that fits.

    The layer compiles (``torch.compile``), exports (``torch.export``) and traces (``torch.jit.trace``). Keep
    ``chunk_size=None`` for an export or a trace, which would fix the number of chunks. A trace cannot be saved, because
    the hand-written gradients are Python functions; an export can.

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
            alone, without a bias, which commutes with the covariance: cov(WX) = W cov(X) Wᵀ; ``'linear_norm'`` by that
            and LayerNorm over the R channels of each position.
        first_order: ``'mean'`` puts the mean of the incoming map before the triangle, ``'class'`` the vector that
            ``forward`` is given (the class token of a ViT), ``'mean+class'`` one after the other; None nothing.
        groups: number G of groups of R/G neighbouring channels. The method is applied to each group alone, so the
            output has G · (R/G)(R/G + 1)/2 numbers, the blocks on the diagonal of a block-diagonal covariance.
        count_sketch: length N of a count sketch that takes the triangle's place: a fixed random linear map, whose inner
            products estimate those of the matrices without bias. For functions of the covariance; None for no sketch.
        channel_dropout: in training, each channel of the reduced map of each image is dropped with this probability,
            and divided by one minus it otherwise; ``'adaptive'`` takes a probability that the features decide (DropCov,
            NeurIPS 2022, with method ``cov``; see ``AdaptiveChannelDropout``). None drops nothing.
        normalize_parts: scales the first-order vectors and the second-order part of each image to one length, so that
            none drowns the others (``map_pool.at_common_length``). For training; a probe's head has its scales in the
            classifier.

    Attributes:
        options: the options beside the method, a ``PoolOptions``.
        reduce: the reduction, an ``nn.Module``; its output is the map whose covariance is taken.
        channels: R.
        out_features: R(R+1)/2, the width of the output, or what ``groups`` and ``count_sketch`` make of it; C or 2C
            more with ``first_order``.
        grad_checkpointing: whether the backward computes the spectral part again instead of keeping its results.

    Raises:
        GCPError: an unknown method, argument, precision or format, or an option that does not fit the channels or the
            method.
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
        groups: int = 1,
        count_sketch: int | None = None,
        channel_dropout: float | str | None = None,
        normalize_parts: bool = False,
    ) -> None:
        """See the class."""
        options = PoolOptions(
            reduction=reduction,
            first_order=first_order,
            groups=groups,
            count_sketch=count_sketch,
            channel_dropout=channel_dropout,
            normalize_parts=normalize_parts,
        )
        super().__init__(in_features, input_fmt, options)
        check_reduce(reduce, in_features)
        self.chunk_size = chunk_size
        self.channels = reduce or in_features
        if self.channels % groups:
            raise GCPError(f"groups={groups} does not divide {self.channels} channels; take a divisor of them.")
        self.dtype = dtype
        self.grad_checkpointing = False
        row = get_method(method)
        row.check_args(method_args or {})
        self._check(row)
        self._method = row.name
        self._args = {row.name: dict(method_args or {})}
        self.reduce: nn.Module = reduction_of(reduction, in_features, reduce) if reduce else nn.Identity()
        self.channel_dropout = channel_dropout_of(channel_dropout)
        self.sketch: nn.Module = nn.Identity()
        if count_sketch is not None:
            self.sketch = CountSketch(self.channels // groups, groups, count_sketch)

    @property
    def method(self) -> str:
        """The current method; set it to the name of another method to switch."""
        return self._method

    @method.setter
    def method(self, name: str) -> None:
        row, width, own = get_method(name), self._pooled_width(name), self._pooled_width(self._method)
        if width != own:
            raise GCPError(
                f"Method '{name}' gives {width} features where '{self._method}' gives {own}: "
                f"the classifier would not fit; create a model with '{name}'."
            )
        self._check(row)
        self._method = row.name

    def _check(self, row: Method) -> None:
        if self.dtype is not None:
            row.check_dtype(self.dtype)
        if self.options.count_sketch is not None and row.of_sigma is None:
            raise GCPError(
                f"count_sketch is for functions of the covariance, and '{row.name}' is none; use another method."
            )

    @property
    def method_args(self) -> dict[str, Any]:
        """The arguments given for the current method; empty where its defaults hold."""
        return dict(self._args.get(self._method, {}))

    @property
    def out_features(self) -> int:
        """Width of the output vector."""
        first = len(self.options.first_order_parts) * self.in_features
        return first + (self.options.count_sketch or self._pooled_width(self._method))

    def _pooled_width(self, method: str) -> int:
        """Width of the second-order part for a method, before a sketch."""
        groups = self.options.groups
        return groups * get_method(method).width(self.channels // groups, **self._args.get(method, {}))

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

    def _second_order(self, x: Tensor) -> Tensor:
        return self.sketch(self._vector(self.channel_dropout(self.reduce(x)).flatten(2)))  # type: ignore[no-any-return]

    def _vector(self, x: Tensor) -> Tensor:
        """The second-order part of a reduced map ``[B, R, M]``, before a sketch."""
        # The method is bound here, so that a switch before the backward does not change what the backward computes.
        compute = self._pooled()
        if self.options.groups > 1:
            x = x.reshape(x.shape[0], self.options.groups, self.channels // self.options.groups, x.shape[2])
        if self.grad_checkpointing:
            compute = functools.partial(checkpoint, compute, use_reentrant=False, preserve_rng_state=False)
        parts = [x] if self.chunk_size is None else torch.split(x, self.chunk_size)
        pooled = [compute(part) for part in parts]
        return (pooled[0] if len(pooled) == 1 else torch.cat(pooled)).flatten(1)

    def _pooled(self) -> Callable[[Tensor], Tensor]:
        """The function of features ``[..., C, M]`` → ``[..., width]`` that the current method stands for."""
        return functools.partial(pool_features, method=self._method, dtype=self.dtype, **self.method_args)

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        dtype = f", dtype={self.dtype}" if self.dtype else ""
        chunk = f", chunk_size={self.chunk_size}" if self.chunk_size else ""
        options = "".join(f", {name}={value!r}" for name, value in self.options.given().items())
        return f"{self.in_features}, method='{self.method}', out_features={self.out_features}{dtype}{chunk}{options}"


def find_pools(model: nn.Module) -> list[GlobalCovariancePool]:
    """Every covariance pool inside a model, also through DDP and compile wrappers."""
    return [module for module in model.modules() if isinstance(module, GlobalCovariancePool)]
