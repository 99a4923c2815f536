"""Sets the stride of a network's last stage, on which the number of positions of the covariance depends."""

from typing import Any

from timm.models import model_entrypoint
from torch import nn

from ..errors import GCPError
from .head import family_of

__all__ = ["keeps_stride_one", "set_last_stride", "set_pool_size", "set_stage_stride"]

_STRIDE_ONE_MODULES = {"resnet", "resnest", "res2net", "sknet", "resnetv2", "vgg"}
"""timm's modules with the classes whose last stage gets stride 1 by default (``Family.stride_one``)."""


def keeps_stride_one(backbone: str) -> bool:
    """Whether the last stage of a timm model gets stride 1 by default, told from its name (``Family.stride_one``)."""
    return model_entrypoint(backbone).__module__.rpartition(".")[2] in _STRIDE_ONE_MODULES


def set_last_stride(model: nn.Module, stride: int) -> nn.Module:
    """Sets the stride of the last stage of a timm ResNet or VGG, without dilation; the weights stay.

    Stride 1 doubles the sides of the last map. In a VGG the last max pooling is removed, as in the published
    covariance VGG.

    Args:
        model: a model of timm's ResNet, ResNetV2 or VGG class, grafted or plain.
        stride: 1 or 2 (timm's own).

    Returns:
        The same model.

    Raises:
        GCPError: another stride, another class, an output stride other than 32, or a stage that downsamples by a layer
            whose stride cannot be set.
    """
    if stride not in (1, 2):
        raise GCPError(f"The stride of the last stage is 1 or 2, not {stride}.")
    if not family_of(model).stride_one:
        raise GCPError(
            f"last_stride sets the last stage of timm's ResNets, ResNetV2s and VGGs; {type(model).__name__} is none of "
            f"them, so leave it out."
        )
    info: dict[str, Any] = model.feature_info[-1]  # type: ignore[index, assignment]
    if info["reduction"] != (16 if stride == 1 else 32):
        if info["reduction"] != 32 or stride != 1:
            raise GCPError(
                "The last stage's stride can be set on a model of output stride 32 only; create it without one."
            )
        set_stage_stride(model, str(info["module"]))
        info["reduction"] = 16
    return model


def set_pool_size(model: nn.Module) -> None:
    """Sets the ``pool_size`` in the cfg of a ResNet or VGG, the size of its last map, to match its stride."""
    if family_of(model).stride_one:
        cfg: Any = model.pretrained_cfg
        reduction = model.feature_info[-1]["reduction"]  # type: ignore[index, call-overload]
        cfg["pool_size"] = tuple(-(-side // reduction) for side in cfg["input_size"][1:])


def set_stage_stride(model: nn.Module, stage: str) -> None:
    """Gives a stage with stride 2 the stride 1.

    Convolutions and padded average pooling get stride 1; 2×2 pooling and blurring, which serve only the stride, are
    removed.

    Args:
        model: the module that holds the stage.
        stage: its path.

    Raises:
        GCPError: the stage downsamples by a layer whose stride cannot be set.
    """
    for name, module in list(model.get_submodule(stage).named_modules(prefix=stage)):
        strides = getattr(module, "stride", 1)
        if strides in (1, (1,), (1, 1)):
            continue
        if isinstance(module, nn.Conv2d) or (isinstance(module, nn.AvgPool2d) and module.padding not in (0, (0, 0))):
            module.stride = (1, 1)
        elif isinstance(module, (nn.AvgPool2d, nn.MaxPool2d)) or "Blur" in type(module).__name__:
            model.set_submodule(name, nn.Identity())
        elif any(module.children()):
            module.stride = 1  # an attribute of a block
        else:
            raise GCPError(f"The last stage downsamples by {type(module).__name__}, whose stride cannot be set: use 2.")
