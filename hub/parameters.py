"""The number of parameters of a row's network."""

import timm

from timm_gcp.models.create import create_on_meta
from timm_gcp.weights.manifest import Checkpoint


def count_parameters(row: Checkpoint) -> int | None:
    """Parameters of the network that a row describes; None where its architecture is not registered."""
    if not timm.is_model(row.architecture):
        return None
    model = create_on_meta(row.architecture, num_classes=row.num_classes, **row.model_args)
    return sum(p.numel() for p in model.parameters())
