"""Reads the argument ``model``: a name, a path, the result of a training, or a network in memory."""

import os
from collections.abc import Mapping
from typing import Any

from timm.utils import unwrap_model
from torch import nn

from ..errors import GCPError

__all__ = ["Model", "split_model"]

Model = str | os.PathLike[str] | nn.Module
"""Registered name, model folder, run folder or `TrainResult`, ``hf-hub:`` id, or a timm model with its weights.

A model may be compiled, and of any floating-point dtype.
"""

_OF_LOADING = ("pretrained", "checkpoint", "use_ema", "method", "num_classes", "model_kwargs", "last_stride")


def split_model(model: Model | None, options: Mapping[str, Any]) -> tuple[nn.Module | None, dict[str, Any]]:
    """A network that is there already, and the options with the name of the model.

    Args:
        model: of a function.
        options: of its command.

    Raises:
        GCPError: a network that is not timm's, or options of loading beside a network that is there.
    """
    if not isinstance(model, nn.Module):
        return None, {**options, "model": model}
    network = unwrap_model(model)
    kind = type(network).__name__
    if lacks := [name for name in ("num_classes", "pretrained_cfg") if not hasattr(network, name)]:
        raise GCPError(
            f"{kind} is not a classification model of timm: it lacks {' and '.join(lacks)}; give a model of "
            "timm.create_model, or a name or folder."
        )
    for name in _OF_LOADING:
        if options.get(name) is not None:
            raise GCPError(f"`{name}` goes with the name of a model, not with a network that is there; leave it out.")
    return model, {**options, "model": kind}
