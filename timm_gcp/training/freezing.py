"""Fine-tuning in two stages: first a fresh head on features that stand still, then everything."""

from collections.abc import Iterator

from torch import nn

from ..map_pool import find_map_pools
from .optimizer import classifiers

__all__ = ["PARTS", "freeze_all_but", "is_frozen"]

PARTS = ("head", "classifier")
"""What ``--train-only`` takes: pool, hidden layers and classifier; or the classifier alone."""


def freeze_all_but(model: nn.Module, part: str) -> list[nn.Module]:
    """Takes the gradient from every parameter outside a part of the model.

    Args:
        model: a timm model.
        part: one of `PARTS`.

    Returns:
        The outermost modules that hold no trainable parameter. Keep them in evaluation mode: batch norm would go on
        averaging, and dropout would shake features that are to stand still.
    """
    kept = classifiers(model)
    if part == "head":
        kept += [*find_map_pools(model), *(m for name, m in model.named_children() if name == "pre_logits")]
    trained = {id(p) for module in kept for p in module.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    return list(_frozen(model))


def is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters and none of them is trained."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def _frozen(module: nn.Module) -> Iterator[nn.Module]:
    if is_frozen(module):
        yield module
    else:
        for child in module.children():
            yield from _frozen(child)
