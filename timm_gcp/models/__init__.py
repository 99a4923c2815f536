"""Covariance-pooled timm models; importing this registers them."""

from .graft import graft
from .zoo import BACKBONES, register_backbone, register_known

register_known()

__all__ = ["BACKBONES", "graft", "register_backbone"]
