"""Folds a probe into a model: directions as a linear reduction, scaling and classifier as one linear layer."""

from typing import Any

import torch
from torch import Tensor, nn

from ..models import graft
from .backbone import require_linear_head

__all__ = ["fold"]


def fold(
    model: nn.Module,
    directions: Tensor,
    weights: Tensor,
    bias: Tensor,
    *,
    method: str,
    first_order: str | None,
) -> nn.Module:
    """Puts the head of a probe on a plain backbone.

    Args:
        model: the plain timm model with its weights; it is changed.
        directions: principal directions, ``[R, C]``.
        weights: of the linear layer on the first-order vector and the triangle, ``[classes, D]``.
        bias: ``[classes]``.
        method: method of the covariance's root.
        first_order: 'mean', 'class' or None.

    Returns:
        The grafted model, in evaluation mode; its logits are the scores of the probe.

    Raises:
        GCPError: a model with hidden layers between its pool and its classifier (VGG, AlexNet).
    """
    grafted: Any = graft(model, method, reduce=len(directions), reduction="linear", first_order=first_order)
    require_linear_head(grafted)
    grafted.reset_classifier(len(weights))
    with torch.no_grad():
        conv = grafted.global_pool.reduce.conv.weight
        conv.copy_(directions.view_as(conv))
        classifier = grafted.get_classifier()
        classifier.weight.copy_(weights)
        classifier.bias.copy_(bias)
    return grafted.eval()
