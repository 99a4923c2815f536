"""Mixed precision: the context of a forward pass, and the gradient scaler."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ..data.options import LoadingOptions

__all__ = ["make_autocast", "make_scaler"]


def make_autocast(options: LoadingOptions, device: torch.device) -> Callable[[], Any]:
    """The context of a forward pass: autocast with ``amp``, else nothing."""
    if not options.amp:
        return contextlib.nullcontext
    return partial(torch.autocast, device_type=device.type, dtype=getattr(torch, options.amp_dtype))


def make_scaler(options: LoadingOptions, device: torch.device) -> torch.amp.GradScaler | None:
    """The gradient scaler that float16 needs on a GPU, or None."""
    if options.amp and options.amp_dtype == "float16" and device.type == "cuda":
        return torch.amp.GradScaler(device.type)
    return None
