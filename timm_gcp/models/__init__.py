"""Covariance-pooled timm models; importing this registers them."""

from .graft import graft
from .zoo import BACKBONES, register_backbone

for _backbone in BACKBONES:
    register_backbone(_backbone)

__all__ = ["BACKBONES", "graft", "register_backbone"]
