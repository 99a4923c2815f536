"""Folds a probe into a model: directions as a linear reduction, scaling and classifier as one linear layer."""

from typing import Any

import torch
from torch import nn

from .backbone import with_pool
from .heads import FittedHead
from .moment import MomentHead, fold_moment

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
    if isinstance(head, MomentHead):
        return fold_moment(model, head)
    width, first_order = len(head.directions), head.first_order
    grafted = with_pool(model, head.method, reduce=width, reduction="linear", first_order=first_order)
    grafted.reset_classifier(len(head.weights))
    set_head(grafted, head)
    return grafted.eval()


@torch.no_grad()
def set_head(model: Any, head: FittedHead) -> None:
    """Sets the weights of the reduction and of the classifier.

    Args:
        model: grafted, with a linear reduction to as many channels as the head has directions, or with none.
        head: of the probe.
    """
    reduce, classifier = model.global_pool.reduce, model.get_classifier()
    if not isinstance(reduce, nn.Identity):
        reduce.conv.weight.copy_(head.directions.matrix.view_as(reduce.conv.weight))
    classifier.weight.copy_(head.weights)
    classifier.bias.copy_(head.bias)
