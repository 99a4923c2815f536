"""Compares the class names of a run's data set with those of the weights that it starts from."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..data.class_names import first_difference
from ..errors import GCPError
from ..models.names import brings_weights
from ..tasks import SINGLE_LABEL, Task, task_of_problem
from ..weights.file import load_training_checkpoint
from .options import ModelOptions

__all__ = ["check_resumed_classes", "warn_of_other_classes"]

_logger = logging.getLogger(__name__)


def check_resumed_classes(
    checkpoint: Mapping[str, Any], path: str, class_names: Sequence[str] | None, task: Task = SINGLE_LABEL
) -> None:
    """Makes sure that a run goes on with the classes that it began with.

    Args:
        checkpoint: the checkpoint that the run continues.
        path: its file.
        class_names: of the training data, by label.
        task: of the run.

    Raises:
        GCPError: a label has another name now, or the run was of the other kind of labels.
    """
    record = checkpoint.get("gcp")
    trained = task_of_problem(record.get("problem_type") if isinstance(record, Mapping) else None)
    if trained is not task:
        raise GCPError(
            f"{path} is of a {trained.name} run, and this data is {task.name}; give the run's own --dataset."
        )
    before = _names_of(checkpoint)
    if before and class_names and (difference := first_difference(list(class_names), before)):
        raise GCPError(
            f"{path} was trained on other classes or in another order: {difference}; give the run's own data and "
            "--class-from, or a --class-map with its order."
        )


def warn_of_other_classes(options: ModelOptions, model: nn.Module, class_names: Sequence[str] | None) -> None:
    """Warns where a classifier is taken over whose classes have other names than those of the data set.

    Args:
        options: of a run that starts from weights, not from a checkpoint of its own.
        model: the model with these weights.
        class_names: of the training data, by label.
    """
    before, source = _names_of_start(options, model)
    if not (before and class_names and len(before) == len(class_names)):
        return
    if difference := first_difference(list(class_names), before):
        _logger.warning(
            "%s: the classifier's weights belong to other classes or another order: %s; a --class-map gives the data "
            "set the order of the weights.",
            source,
            difference,
        )


def _names_of_start(options: ModelOptions, model: nn.Module) -> tuple[list[str], str]:
    if options.initial_checkpoint:
        try:
            return _names_of(load_training_checkpoint(options.initial_checkpoint)), options.initial_checkpoint
        except GCPError:
            return [], ""  # a bare state dict has no names
    if options.pretrained_path or not (options.pretrained or brings_weights(options.model)):
        return [], ""  # the classifier is new
    names = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    return (list(names) if isinstance(names, (list, tuple)) else []), options.model


def _names_of(checkpoint: Mapping[str, Any]) -> list[str]:
    record = checkpoint.get("gcp")
    names = record.get("class_names") if isinstance(record, Mapping) else None
    return [str(name) for name in names] if isinstance(names, (list, tuple)) else []
