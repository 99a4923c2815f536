"""Parses model names: ``<backbone>_<method>.<tag>``, model folders and Hub ids."""

import os
from typing import NamedTuple

from ..methods import METHODS
from ..moment_pooling import MOMENT_POOL
from ..weights.init_tags import is_init, plain_tag

__all__ = ["SOURCES", "ModelName", "brings_weights", "endings", "plain_name", "split_name"]

SOURCES = ("local-dir:", "hf-hub:", "hf_hub:")
"""timm's prefixes of model folders and of Hub ids."""


class ModelName(NamedTuple):
    """The parts of a model's name.

    Attributes:
        backbone: the timm model; the whole name without its tag if the name does not end in a method.
        method: a name of ``METHODS``, 'mp' (Moment Probing), or ''.
        tag: of the weights, or ''.
    """

    backbone: str
    method: str
    tag: str

    @property
    def of_backbone(self) -> str:
        """Backbone and tag, without the method."""
        return ".".join(filter(None, (self.backbone, self.tag)))


def split_name(name: str) -> ModelName:
    """Splits a model's name.

    Args:
        name: a name of timm or ours, registered or not, such as ``resnet50_isqrt.init`` or ``resnet50``.

    Returns:
        Its parts.
    """
    architecture, _, tag = name.partition(".")
    backbone, _, method = architecture.rpartition("_")
    return ModelName(backbone, method, tag) if method in endings() else ModelName(architecture, "", tag)


def endings() -> list[str]:
    """What a registered name ends in: every method, and 'mp' (Moment Probing)."""
    return [*METHODS, MOMENT_POOL]  # a function, since `register_method` adds to the methods


def plain_name(name: str) -> ModelName | None:
    """What a name under ``init`` stands for where no pool is wanted: the plain backbone, with its own tag.

    Args:
        name: such as ``resnet50_isqrt.init-a1_in1k``.

    Returns:
        Backbone, method and timm's tag ('' for the default one); None for any other name.
    """
    backbone, method, tag = split_name(name)
    return ModelName(backbone, method, plain_tag(tag)) if method in METHODS and is_init(tag) else None


def brings_weights(name: str) -> bool:
    """Whether a name means a model folder (with or without ``local-dir:``) or a Hub id, which always have weights."""
    return name.startswith(SOURCES) or os.path.isdir(name)
