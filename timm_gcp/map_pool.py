"""What the pooling layers have in common: the layout of the incoming map, and the first-order vectors."""

import torch
from torch import Tensor, nn

from .errors import GCPError
from .pool_options import PoolOptions, check_whole

__all__ = ["MapPool", "at_common_length", "find_map_pools"]

_FORMATS = {"NCHW": 1, "NHWC": -1, "NLC": -1}

_LENGTH = 16.0
"""Of a normalised part: √256, the norm of the root of the covariance of 256 uncorrelated channels of variance one."""
_FLOOR = 1e-6  # added to the squared length, so that the gradient of a part that is zero stays bounded


class MapPool(nn.Module):
    """A layer that pools a feature map into a vector: first-order vectors, then what ``_second_order`` gives.

    Args:
        in_features: channels of the incoming map, C.
        input_fmt: ``'NCHW'``, ``'NHWC'`` or ``'NLC'``.
        options: besides the method.

    Raises:
        GCPError: an unknown format, or no number of channels.
    """

    def __init__(self, in_features: int, input_fmt: str, options: PoolOptions) -> None:
        """See the class."""
        super().__init__()
        if input_fmt not in _FORMATS:
            raise GCPError(f"Unknown input_fmt '{input_fmt}'; there are {', '.join(_FORMATS)}.")
        check_whole("in_features", in_features, "of channels of the incoming map")
        self.in_features = in_features
        self.input_fmt = input_fmt
        self.options = options

    def forward(self, x: Tensor, token: Tensor | None = None) -> Tensor:
        """Pools a feature map.

        Args:
            x: the map, laid out as ``input_fmt`` says.
            token: the class token ``[B, C]``, for ``first_order='class'`` and ``'mean+class'``; otherwise not given.

        Raises:
            GCPError: the input does not have the channels or the dimensions that ``input_fmt`` says, or ``token`` is
                missing or not expected.
        """
        if isinstance(x, torch.fx.Proxy):  # one node of a tracer's graph: control flow inside depends on shapes
            given = (x,) if token is None else (x, token)
            return x.tracer.create_proxy("call_module", x.tracer.path_of_module(self), given, {})
        if (token is None) == ("class" in self.options.first_order_parts):
            raise GCPError(
                "The pool takes the class token as a second argument where first_order is 'class' or 'mean+class', and "
                "only there."
            )
        dim = _FORMATS[self.input_fmt]
        if x.dim() != len(self.input_fmt) or x.shape[dim] != self.in_features:
            raise GCPError(
                f"{type(self).__name__} takes {self.input_fmt} input with {self.in_features} channels, "
                f"not a tensor of shape {list(x.shape)}."
            )
        x = self.in_nchw(x)
        parts = [x.mean((2, 3))] if "mean" in self.options.first_order_parts else []
        parts += [] if token is None else [token]
        second = self._second_order(x)
        parts.append(second)
        if self.options.normalize_parts:
            parts = [at_common_length(part) for part in parts]
        return torch.cat([part.to(second.dtype) for part in parts], 1) if len(parts) > 1 else parts[0]

    def in_nchw(self, x: Tensor) -> Tensor:
        """A map in the layout of ``input_fmt``, as ``[B, C, H, W]``; tokens become ``[B, C, N, 1]``."""
        dim = _FORMATS[self.input_fmt]
        x = x if dim == 1 else x.movedim(dim, 1)  # a movedim without effect stops torch's compiler at dynamic sizes
        return x if x.dim() == 4 else x.unsqueeze(-1)

    def _second_order(self, x: Tensor) -> Tensor:
        """The second-order part of a map ``[B, C, H, W]``."""
        raise NotImplementedError

    @property
    def method(self) -> str:
        """The current method."""
        raise NotImplementedError

    @method.setter
    def method(self, name: str) -> None:
        raise NotImplementedError

    @property
    def out_features(self) -> int:
        """Width of the output vector."""
        raise NotImplementedError

    # What timm's models expect of a pooling layer.
    @property
    def pool_type(self) -> str:
        """The current method, which timm saves as ``global_pool`` and passes to ``reset_classifier`` on loading."""
        return self.method

    def feat_mult(self) -> float:
        """The factor from incoming channels to outgoing features."""
        return self.out_features / self.in_features


def at_common_length(part: Tensor) -> Tensor:
    """A part of the pooled vector, scaled to length 16 for each image: 16 v / √(‖v‖² + 1e-6).

    A linear layer on several parts learns each at a pace that grows with the square of its length, so a part of another
    scale is either left behind or makes training diverge. The length is fixed, not learned: the classifier can scale
    its own weights, and a learned factor of a whole part has the gradient of all of them, which a plain gradient step
    at the rate of the classifier does not bear.

    Args:
        part: ``[B, D]``, floating point.

    Returns:
        The same shape and dtype; the length is computed in float32 or better.
    """
    wide = part.to(torch.promote_types(part.dtype, torch.float32))
    return (wide * (_LENGTH / (wide.square().sum(1, keepdim=True) + _FLOOR).sqrt())).to(part.dtype)


def find_map_pools(model: nn.Module) -> list[MapPool]:
    """Every pooling layer of ours inside a model."""
    return [module for module in model.modules() if isinstance(module, MapPool)]
