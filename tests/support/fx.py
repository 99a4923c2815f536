"""torch.fx as timm's own tests use it."""

import pytest
import timm
from timm.models import get_notrace_functions, get_notrace_modules
from torchvision.models.feature_extraction import get_graph_node_names


def tracer_of(backbone, **arguments):
    """The arguments with which timm traces its models; skips the test where timm's own backbone cannot be traced."""
    tracer = {
        "leaf_modules": get_notrace_modules(),
        "autowrap_functions": get_notrace_functions(),
        "param_shapes_constant": True,
    }
    try:
        get_graph_node_names(timm.create_model(backbone, **arguments), tracer_kwargs=tracer)
    except TypeError as error:
        pytest.skip(f"timm's own {backbone} cannot be traced with this torch: {error}")
    return tracer
