"""Deep copies of models that keep tensors of a forward pass."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

__all__ = ["copy_model"]

_Model = TypeVar("_Model", bound=nn.Module)


def copy_model(model: _Model) -> _Model:
    """A deep copy of a model, also of one that keeps results of a forward pass with gradients.

    Attention of TinyViT, LeViT and others keeps its biases between evaluation passes. Such a tensor belongs to a graph,
    and ``copy.deepcopy`` refuses it; the copy has it without its graph.

    Args:
        model: any module, without wrappers.

    Returns:
        The copy: nothing in it is shared with the model.
    """
    kept = (tensor for module in model.modules() for tensor in _tensors_in(vars(module)))
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in kept if not tensor.is_leaf})


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors_in(each)
