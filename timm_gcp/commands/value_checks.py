"""Checks of options that look at several values, at the model or at the machine."""

import argparse
from collections.abc import Mapping
from typing import Any

import timm.optim
import torch

from ..errors import GCPError
from ..text import nearest

__all__ = ["check_compiler", "check_device", "check_model_kwargs", "check_optimizer", "check_ranges"]

_OWN_OPTIONS = {
    **{"num_classes": "--num-classes", "in_chans": "--in-chans", "last_stride": "--last-stride"},
    **{"pretrained": "--pretrained", "checkpoint_path": "--checkpoint or --initial-checkpoint"},
    **{"image_size": "--img-size"},
}


def check_ranges(args: argparse.Namespace) -> None:
    """Refuses ranges of the augmentation that are none.

    Raises:
        GCPError: not two values, the first larger than the second, or values out of bounds.
    """
    crops_area = args.train_crop_mode in (None, "", "rrc")  # the other modes resize, and may enlarge
    bounds = (("scale", 1.0 if crops_area else None), ("ratio", None), ("cutmix_minmax", 1.0), ("lr_noise", None))
    for name, most in bounds:
        values, option = getattr(args, name), f"--{name.replace('_', '-')}"
        if values is None or (name == "lr_noise" and len(values) == 1):
            continue
        shown = " ".join(f"{value:g}" for value in values)
        if len(values) != 2 or values[0] > values[1]:
            raise GCPError(f"{option} takes two values, the smaller first, not {shown}.")
        if most is not None and values[1] > most:
            raise GCPError(f"{option} cannot go beyond {most:g}, not to {values[1]:g}.")


def check_compiler(backend: str | None) -> None:
    """Refuses a backend that ``torch.compile`` does not have.

    Raises:
        GCPError: the backends that there are.
    """
    if backend is None:
        return
    names = torch.compiler.list_backends(exclude_tags=())
    if backend not in names:
        raise GCPError(f"--torchcompile {backend}: torch has {', '.join(names)}{nearest(backend, names)}")


def check_optimizer(name: str) -> None:
    """Refuses optimisers that need more than a gradient.

    Raises:
        GCPError: the optimiser takes second derivatives.
    """
    if timm.optim.get_optimizer_info(name.lower().removeprefix("lookahead_")).second_order:
        raise GCPError(f"--opt {name} needs second derivatives, which training does not make; use adamw, or another.")


def check_model_kwargs(kwargs: Mapping[str, Any]) -> None:
    """Refuses arguments of the model that have an option of their own, or that take its classifier away.

    Raises:
        GCPError: such an argument.
    """
    for name in kwargs:
        if name in _OWN_OPTIONS:
            raise GCPError(f"--model-kwargs cannot set {name}; use {_OWN_OPTIONS[name]}.")
    if kwargs.get("features_only"):
        raise GCPError("--model-kwargs features_only makes a model without a classifier; leave it out.")


def check_device(name: str) -> None:
    """Makes sure that a device is there.

    Raises:
        GCPError: it is not, or no tensor can be kept on it.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError) as error:
        raise GCPError(f"Unknown device '{name}'; try cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise GCPError(f"--device {name}: this machine has no CUDA device; use --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise GCPError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices, counted from 0.")
    if device.type == "meta":
        raise GCPError("--device meta keeps no values, so nothing can be computed on it; use --device cpu.")
    if device.type not in ("cpu", "cuda"):
        try:
            torch.empty(1, device=device).item()
        except Exception as error:  # every backend has its own
            raise GCPError(f"--device {name} is not available on this machine; use --device cpu.") from error
