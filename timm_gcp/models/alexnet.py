"""AlexNet, which timm lacks: with batch norm, as the paper trains it, and without, as the original."""

from collections import OrderedDict
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import SelectAdaptivePool2d
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

__all__ = ["AlexNet", "hidden_layers"]

# Channels, kernel, stride and padding of the five convolutions; max pooling follows the first two.
_CONVOLUTIONS = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
_HIDDEN = 4096


def hidden_layers(in_features: int, width: int, drop_rate: float) -> nn.Sequential:
    """The two hidden layers of AlexNet and VGG: linear, ReLU, dropout, linear, ReLU.

    Args:
        in_features: width of the pooled vector.
        width: of both layers.
        drop_rate: of the dropout between them.
    """
    first, second = nn.Linear(in_features, width), nn.Linear(width, width)
    for layer in (first, second):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return nn.Sequential(
        OrderedDict(fc1=first, act1=nn.ReLU(True), drop=nn.Dropout(drop_rate), fc2=second, act2=nn.ReLU(True))
    )


class AlexNet(nn.Module):
    """AlexNet (Krizhevsky, 2014: *One weird trick*), with batch norm after every convolution as the paper trains it.

    The last max pooling is left out, as in the covariance networks: 13×13 maps of 256 channels at 224 px. Average
    pooling feeds the two hidden layers, where the original flattens a 6×6 map, so that all heads see the same map.

    Args:
        num_classes: outputs of the classifier; 0 for none.
        in_chans: channels of the image.
        global_pool: timm's name of a pooling; ``''`` returns the map.
        drop_rate: dropout before each of the last two linear layers.
        batch_norm: False gives the original, without batch norm.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        layers: list[nn.Module] = []
        channels = in_chans
        for k, (width, kernel, stride, padding) in enumerate(_CONVOLUTIONS):
            if k in (1, 2):
                layers.append(nn.MaxPool2d(3, 2))
            layers.append(nn.Conv2d(channels, width, kernel, stride, padding))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU(inplace=True))
            channels = width
        self.features = nn.Sequential(*layers)
        pools = [k for k, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        self.feature_info = [
            dict(num_chs=width, reduction=reduction, module=f"features.{end}")
            for width, reduction, end in ((64, 4, pools[0] - 1), (192, 8, pools[1] - 1), (256, 16, len(layers) - 1))
        ]
        self.num_features = channels
        self.head_hidden_size = _HIDDEN
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.global_pool: nn.Module = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        self.pre_logits: nn.Module = hidden_layers(channels, _HIDDEN, drop_rate)
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The parameter groups of layer decay, in timm's form."""
        return dict(stem=r"^features\.0", blocks=r"^features\.(\d+)")

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keeps only some activations of the convolutions and recomputes the others in the backward pass."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier, and the pooling if it is given."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        like = next(self.parameters())
        head = nn.Linear(_HIDDEN, num_classes) if num_classes else nn.Identity()
        self.head = head.to(device=like.device, dtype=like.dtype)

    def forward_features(self, x: Tensor) -> Tensor:
        """Computes the map ``[B, 256, H/16, W/16]`` of images ``[B, in_chans, H, W]``."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return torch.utils.checkpoint.checkpoint_sequential(self.features, 3, x, use_reentrant=False)
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Computes logits ``[B, num_classes]`` from the map, or the last hidden layer ``[B, 4096]``."""
        if isinstance(self.global_pool, SelectAdaptivePool2d) and self.global_pool.is_identity():
            return x
        x = self.head_drop(self.pre_logits(self.global_pool(x)))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits ``[B, num_classes]`` of images ``[B, in_chans, H, W]``."""
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs(
    {
        "alexnet": dict(
            num_classes=1000,
            input_size=(3, 224, 224),
            pool_size=(13, 13),
            crop_pct=0.875,
            interpolation="bilinear",
            mean=IMAGENET_DEFAULT_MEAN,
            std=IMAGENET_DEFAULT_STD,
            first_conv="features.0",
            classifier="head",
        )
    }
)


@register_model
def alexnet(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """AlexNet with batch norm; ``batch_norm=False`` for the original's. See ``AlexNet``."""
    feature_cfg = dict(out_indices=(0, 1, 2), flatten_sequential=True)
    return build_model_with_cfg(AlexNet, "alexnet", pretrained, feature_cfg=feature_cfg, **kwargs)
