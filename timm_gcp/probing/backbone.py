"""The feature map of a frozen backbone: what a covariance pool on it would see."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import GCPError
from ..models import graft
from ..models.mixin import GCPMixin

__all__ = ["Backbone", "Features"]


@dataclass
class Features:
    """Features of a batch of images.

    Attributes:
        maps: ``[B, C, M]``, C channels at M positions.
        token: the class token ``[B, C]``, or None.
    """

    maps: Tensor
    token: Tensor | None


class Backbone:
    """A frozen backbone in evaluation mode.

    Args:
        model: a timm classification model; it is changed, since its head is taken away.
        device: where it runs.

    Attributes:
        has_token: whether it has a class token.

    Raises:
        GCPError: a model whose features cannot be pooled.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        body: Any = model if isinstance(model, GCPMixin) else graft(model, "isqrt", reduce=0)
        self.head = body.gcp_head
        body.reset_classifier(0, "")
        self.model: Any = body.to(device).eval()
        self.device = device
        self.has_token = bool(self.head.prefix)

    @torch.inference_mode()
    def features(self, images: Tensor) -> Features:
        """The features of a batch of images ``[B, 3, H, W]``, in float32.

        Raises:
            GCPError: a map of a single position, which has no covariance.
        """
        x = self.model(images.to(self.device)).float()
        token = x[:, 0] if self.has_token else None
        if self.head.input_fmt == "NLC":
            maps = x[:, self.head.prefix :].mT
        else:
            maps = (x.movedim(-1, 1) if self.head.input_fmt == "NHWC" else x).flatten(2)
        if maps.shape[2] < 2:
            raise GCPError(
                "Images of this size leave a feature map of 1 position, which has no covariance; give a larger "
                "`img_size`."
            )
        return Features(maps, token)
