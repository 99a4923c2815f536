"""Training transforms that timm cannot express, or that fail as it makes them."""

from collections.abc import Mapping
from typing import Any

from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, posterize
from torchvision.transforms import Compose

__all__ = ["CROP_AS_IN_EVALUATION", "crop_as_in_evaluation", "fit_policy"]

CROP_AS_IN_EVALUATION = "eval"
"""The ``--train-crop-mode`` that is ours."""


def crop_as_in_evaluation(training: Any, data_config: Mapping[str, Any]) -> Compose:
    """Puts the resize and the crop of evaluation where a training transform has its random crop.

    Args:
        training: a training transform of timm, which starts with its random crop.
        data_config: what ``preprocessing`` tells of evaluation.

    Returns:
        The transform: evaluation's resize and crop, then the flips and all else of ``training``.
    """
    evaluation: Any = create_transform(
        data_config["input_size"],
        interpolation=data_config["interpolation"],
        crop_pct=data_config["crop_pct"],
        crop_mode=data_config["crop_mode"],
    )
    resize, crop, *_ = evaluation.transforms
    return Compose([resize, crop, *training.transforms[1:]])


def fit_policy(training: Any, data_config: Mapping[str, Any]) -> None:
    """Makes the operations of an augmentation policy (``--aa``) run with the installed Pillow, and on grey images.

    Args:
        training: a training transform of timm, changed in place.
        data_config: mean and channels of the images.
    """
    for transform in getattr(training, "transforms", ()):
        for operation in _operations(getattr(transform, "policy", None) or getattr(transform, "ops", None) or ()):
            if operation.aug_fn is posterize:
                operation.aug_fn = _posterize
            if data_config["input_size"][0] == 1:
                # timm fills what a rotation uncovers with a colour of three channels.
                operation.kwargs["fillcolor"] = min(255, round(255 * data_config["mean"][0]))


def _operations(nested: Any) -> list[AugmentOp]:
    if isinstance(nested, (list, tuple)):
        return [operation for part in nested for operation in _operations(part)]
    return [nested] if isinstance(nested, AugmentOp) else []


def _posterize(image: Image.Image, bits: int, **kwargs: Any) -> Image.Image:
    """timm's operation, also with no bit kept, a black image, which Pillow refuses from version 12 on."""
    return posterize(image, bits, **kwargs) if bits > 0 else Image.new(image.mode, image.size)
