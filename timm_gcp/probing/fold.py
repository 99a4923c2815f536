"""Folds a probe into a model: directions as a linear reduction, scaling and classifier as one linear layer."""

from typing import Any

import torch
from torch import nn

from .backbone import with_pool
from .heads import FittedHead
from .plain_head import PlainHead

__all__ = ["fold", "set_head"]


def fold(model: nn.Module, head: FittedHead) -> nn.Module:
    """Puts the head of a probe on a backbone.

    Args:
        model: the timm model with its weights; it is changed.
        head: of the probe.

    Returns:
        The grafted model, in evaluation mode; its logits are the scores of the probe.

    Raises:
        GCPError: a model with hidden layers between its pool and its classifier (VGG, AlexNet).
    """
    grafted = with_pool(model, head.method, **head.pool_args)
    grafted.reset_classifier(len(head.weights))
    set_head(grafted, head)
    return grafted.eval()


@torch.no_grad()
def set_head(model: Any, head: FittedHead | PlainHead) -> None:
    """Sets the weights of the classifier, and of the pool where the head has one.

    Args:
        model: with a classifier that fits the head; grafted for a `FittedHead`, with a pool that fits it.
        head: of the probe.
    """
    if isinstance(head, FittedHead):
        head.fill(model.global_pool)
    classifier = model.get_classifier()
    classifier.weight.copy_(head.weights)
    classifier.bias.copy_(head.bias)
