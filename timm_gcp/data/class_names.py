"""Compares the class names of a data set with those that a model was trained on."""

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

from ..errors import GCPError
from ..tasks import MULTI_LABEL, task_of_model
from ..text import printable

__all__ = ["check_classes", "class_names", "first_difference"]

_logger = logging.getLogger(__name__)


def first_difference(here: Sequence[str], there: Sequence[str]) -> str:
    """The first label whose name differs.

    Args:
        here: class names of the data set, by label.
        there: class names that the weights were trained on, by label.

    Returns:
        A clause that names the label and both names; '' where all names agree.
    """
    # Weights of earlier versions may name a class by bytes that are no text.
    here, there = ([printable(name) if isinstance(name, str) else name for name in names] for names in (here, there))
    for label in range(max(len(here), len(there))):
        ours, theirs = (repr(names[label]) if label < len(names) else "nothing" for names in (here, there))
        if ours != theirs:
            return f"class {label} is {ours} in the data set and {theirs} in the weights"
    return ""


def check_classes(model: nn.Module, dataset: Any) -> None:
    """Makes sure that the labels of a data set mean what the model's logits mean.

    Raises:
        GCPError: more classes than the model has, classes of other names, or one label per image for a multi-label
            model.
    """
    _check_task(model, bool(getattr(dataset, "multi_label", False)))
    number = int(getattr(model, "num_classes"))  # noqa: B009  timm's models have it, nn.Module does not
    classes, names = getattr(dataset, "num_classes", None), getattr(dataset, "class_names", None)
    trained = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    if classes is not None and classes > number:
        raise GCPError(
            f"The data set has {classes} classes and the model {number}; give a model trained on these classes, or a "
            "--class-map."
        )
    if names and isinstance(trained, (list, tuple)) and (difference := first_difference(list(names), trained)):
        raise GCPError(
            f"{difference[0].upper()}{difference[1:]}; give the data that the model was trained on, --class-from, or a "
            "--class-map with its order."
        )


def _check_task(model: nn.Module, multi_label: bool) -> None:
    marked = task_of_model(model) is MULTI_LABEL
    if marked and not multi_label:
        raise GCPError("The model is multi-label, and this data has one label per image; give --dataset multilabel.")
    if multi_label and not marked:
        _logger.warning(
            "The model does not say that it is multi-label; its probabilities are taken by sigmoid all the same."
        )


def class_names(model: nn.Module, dataset: Any) -> list[str] | None:
    """Names of the classes by label: those that the model was trained on, or those of the data set; None without any.

    Args:
        model: of timm's.
        dataset: in timm's form.
    """
    trained = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    if isinstance(trained, (list, tuple)) and trained:
        return [str(name) for name in trained]
    names = getattr(dataset, "class_names", None)
    return list(names) if names else None
