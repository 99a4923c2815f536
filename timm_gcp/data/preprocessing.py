"""Preprocessing, mixed precision and the check of labels, between a data set and a model."""

import argparse
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.data import resolve_data_config
from torch import nn

from ..errors import GCPError
from ..models.folder import model_arguments
from .class_names import first_difference


def make_autocast(device: torch.device, amp: bool, dtype: str) -> Callable[[], Any]:
    """The context of a forward pass: autocast under ``--amp``, else nothing."""
    if not amp:
        return contextlib.nullcontext
    return partial(torch.autocast, device_type=device.type, dtype=getattr(torch, dtype))


def given_image_size(args: argparse.Namespace) -> tuple[int, int] | None:
    """Height and width of the images by ``--input-size`` or ``--img-size``; None where neither is given."""
    if args.input_size:
        return tuple(args.input_size[1:])
    return (args.img_size, args.img_size) if args.img_size else None


def preprocessing(args: argparse.Namespace, model: nn.Module, use_test_size: bool = False) -> dict[str, Any]:
    """timm's ``resolve_data_config``, with one mean and deviation a channel.

    Args:
        args: arguments, which win over the model's own settings.
        model: its ``pretrained_cfg`` counts.
        use_test_size: size and crop that the model's authors recommend for evaluation.
    """
    # With a size alone, timm would take three channels.
    given = {**vars(args), "in_chans": args.in_chans or model_arguments(model).get("in_chans")}
    config = resolve_data_config(given, model=model, use_test_size=use_test_size)
    channels = config["input_size"][0]
    for key in ("mean", "std"):
        if len(config[key]) != channels:
            config[key] = (sum(config[key]) / len(config[key]),) * channels
    return config


def check_classes(model: nn.Module, dataset: Any) -> None:
    """Makes sure that the labels of a data set mean what the model's logits mean.

    Raises:
        GCPError: more classes than the model has, or classes of other names.
    """
    classes, names = getattr(dataset, "num_classes", None), getattr(dataset, "class_names", None)
    trained = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    if classes is not None and classes > model.num_classes:
        raise GCPError(
            f"The data set has {classes} classes and the model {model.num_classes}; give a model trained on these "
            "classes, or a --class-map."
        )
    if names and isinstance(trained, (list, tuple)) and (difference := first_difference(list(names), trained)):
        raise GCPError(
            f"{difference[0].upper()}{difference[1:]}; give the data that the model was trained on, --class-from, or a "
            "--class-map with its order."
        )
