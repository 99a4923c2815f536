"""Preprocessing of images for a model: size, channels, crop, mean and standard deviation."""

from typing import Any

import torch
from timm.data import resolve_data_config
from timm.utils import unwrap_model
from torch import nn

from ..errors import GCPError
from ..models.folder import model_arguments
from .options import InputOptions

__all__ = ["image_dtype", "image_mode", "preprocessing"]


def image_mode(channels: int) -> str:
    """The mode of PIL for images of a number of channels.

    Args:
        channels: 1 or 3.

    Raises:
        GCPError: another number of channels.
    """
    if channels not in (1, 3):
        raise GCPError(
            f"The model takes images of {channels} channels, and images are read in colour (3) or grey (1); give "
            "--in-chans 3 or 1, or a model of such a number."
        )
    return "RGB" if channels == 3 else "L"


def image_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the images that a model takes: that of its first floating-point parameter; float32 without one."""
    return next((each.dtype for each in model.parameters() if each.is_floating_point()), torch.float32)


def preprocessing(options: InputOptions, model: nn.Module, use_test_size: bool = False) -> dict[str, Any]:
    """timm's ``resolve_data_config``, with one mean and one standard deviation per channel.

    Args:
        options: settings that override those of the model.
        model: its ``pretrained_cfg`` has the settings that are not given; wrappers of DDP and compile are removed.
        use_test_size: take the size and crop that the model's authors recommend for evaluation.

    Returns:
        ``input_size`` (channels, height, width), ``mean``, ``std``, ``interpolation``, ``crop_pct``, ``crop_mode``.
    """
    model = unwrap_model(model)  # timm asks for the truth of a model, which a wrapper of compile has not
    # Given a size alone, timm would take three channels.
    given = {**vars(options), "in_chans": options.in_chans or model_arguments(model).get("in_chans")}
    config: dict[str, Any] = resolve_data_config(given, model=model, use_test_size=use_test_size)
    if given["in_chans"] and options.input_size is None:
        # Without a size, timm takes all three numbers of the model's, whatever the channels.
        config["input_size"] = (given["in_chans"], *config["input_size"][1:])
    channels = config["input_size"][0]
    for key in ("mean", "std"):
        if len(config[key]) != channels:
            config[key] = (sum(config[key]) / len(config[key]),) * channels
    return config
