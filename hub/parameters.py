"""How many parameters a row's network has."""

import timm
import torch
from torch import nn

from timm_gcp.weights.manifest import Checkpoint


def count_parameters(row: Checkpoint) -> int | None:
    """Parameters of the network that a row describes; None where its architecture is not registered."""
    if not timm.is_model(row.architecture):
        return None
    try:
        # Nothing is allocated or initialised on the meta device.
        with torch.device("meta"):
            model = _build(row)
    except (NotImplementedError, RuntimeError):  # some backbones compute while they are built
        model = _build(row)
    return sum(p.numel() for p in model.parameters())


def _build(row: Checkpoint) -> nn.Module:
    model: nn.Module = timm.create_model(row.architecture, num_classes=row.num_classes, **row.model_args)
    return model
