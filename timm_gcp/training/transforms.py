"""The training transform that published fine-tuning uses, and timm cannot express."""

from collections.abc import Mapping
from typing import Any

from timm.data import create_transform
from torchvision.transforms import Compose

__all__ = ["CROP_AS_IN_EVALUATION", "crop_as_in_evaluation"]

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
