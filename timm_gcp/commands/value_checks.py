"""Checks of options that several commands have, or that look at several values, at the model or at the machine."""

import argparse
from collections.abc import Mapping
from typing import Any

import timm.optim
import torch

from ..data.options import default_device
from ..data.preprocessing import image_mode
from ..errors import GCPError
from ..methods import covariance_method
from ..models.names import plain_name
from ..text import nearest

__all__ = [
    "check_backbone",
    "check_common",
    "check_compiler",
    "check_device",
    "check_input",
    "check_model_kwargs",
    "check_optimizer",
    "check_ranges",
    "choose_device",
]

_OWN_OPTIONS = {
    **{"num_classes": "--num-classes", "in_chans": "--in-chans", "last_stride": "--last-stride"},
    **{"pretrained": "--pretrained", "checkpoint_path": "--checkpoint or --initial-checkpoint"},
    **{"image_size": "--img-size"},
}


def check_backbone(args: argparse.Namespace, method: str) -> None:
    """Checks the options of a frozen backbone, and completes its name and the method of the covariance.

    Args:
        args: of the command; they are changed.
        method: the one that is taken where neither --method nor the name of the model tells.

    Raises:
        GCPError: no backbone, or options out of range.
    """
    args.data_dir = args.data_dir or args.data
    if plain := plain_name(args.model):  # the covariance is taken of the backbone's own map
        args.model, args.method = plain.of_backbone, args.method or plain.method
    args.method = args.method or method
    check_common(args)
    covariance_method(args.method, f"--method {args.method}")
    if not args.model and not args.checkpoint:
        raise GCPError("Give the backbone by --model NAME, such as --model vit_small_patch14_dinov2.")


def check_common(args: argparse.Namespace) -> None:
    """Checks the options that training and evaluation share.

    Raises:
        GCPError: a value that cannot be used.
    """
    check_input(args)
    choose_device(args)


def choose_device(args: argparse.Namespace) -> None:
    """Fills in ``args.device`` where it is not given, and checks it.

    Raises:
        GCPError: the device is not there.
    """
    if args.device is None:
        args.device = default_device()
    check_device(args.device)


def check_input(args: argparse.Namespace) -> None:
    """Checks the options of the model's input.

    Raises:
        GCPError: a value that cannot be used, or two that contradict each other.
    """
    channels = args.in_chans or (args.input_size or [3])[0]
    image_mode(channels)
    check_model_kwargs(args.model_kwargs or {})
    for name in ("mean", "std"):
        values = getattr(args, name)
        if values is not None and len(values) not in (1, channels):
            raise GCPError(f"--{name} takes 1 or {channels} values, not {len(values)}.")
    if args.input_size is not None and args.in_chans is not None and args.input_size[0] != args.in_chans:
        raise GCPError(f"--input-size says {args.input_size[0]} channels and --in-chans {args.in_chans}; choose one.")


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
