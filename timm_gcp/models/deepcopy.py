"""Deep-copies models, including those that keep tensors of a forward pass."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

__all__ = ["copy_model"]

_Model = TypeVar("_Model", bound=nn.Module)


def copy_model(model: _Model) -> _Model:
    """Deep-copies a model, including one that keeps results of a forward pass with gradients.

    Attention layers of TinyViT, LeViT and others cache their biases between evaluation passes. ``copy.deepcopy`` fails
    on such a tensor, because it belongs to an autograd graph; the copy holds it detached.

    Args:
        model: any module, without wrappers.

    Returns:
        The copy, which shares nothing with the model.
    """
    kept = (tensor for module in model.modules() for tensor in _tensors_in(vars(module)))
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in kept if not tensor.is_leaf})


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors_in(each)
