"""Models without memory for their weights."""

import timm
import torch
from torch import nn

__all__ = ["create_on_meta"]


def create_on_meta(name: str, **arguments: object) -> nn.Module:
    """``timm.create_model`` on the meta device, to look at a network without its weights.

    Args:
        name: a registered name.
        **arguments: as ``timm.create_model``.

    Returns:
        The model; on the CPU, with random weights, where its family computes while it is built.
    """
    try:
        with torch.device("meta"):
            model: nn.Module = timm.create_model(name, **arguments)
    except (NotImplementedError, RuntimeError):
        model = timm.create_model(name, **arguments)
    return model
