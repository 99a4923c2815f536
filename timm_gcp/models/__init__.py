"""Covariance-pooled timm models. Importing this package registers them with timm."""

from .backbones import BACKBONES
from .graft import graft
from .registry import ensure_registered, register_backbone, register_known, register_method

register_known()

__all__ = ["BACKBONES", "ensure_registered", "graft", "register_backbone", "register_method"]
