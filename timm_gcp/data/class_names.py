"""Compares the class names of a data set with those that weights were saved with."""

import argparse
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import GCPError
from ..models.names import brings_weights
from ..weights.file import load_training_checkpoint

__all__ = ["check_resumed_classes", "first_difference", "say_other_classes"]

_logger = logging.getLogger(__name__)


def first_difference(here: Sequence[str], there: Sequence[str]) -> str:
    """Which label has another name in the data set (``here``) than in the weights (``there``); '' for none."""
    for label in range(max(len(here), len(there))):
        ours, theirs = (repr(names[label]) if label < len(names) else "nothing" for names in (here, there))
        if ours != theirs:
            return f"class {label} is {ours} in the data set and {theirs} in the weights"
    return ""


def check_resumed_classes(args: argparse.Namespace, checkpoint: Mapping[str, Any], dataset: Any) -> None:
    """Makes sure that a run goes on with the classes that it began with.

    Args:
        args: of the run; ``resume`` names the checkpoint.
        checkpoint: what it holds.
        dataset: the training data.

    Raises:
        GCPError: a label has another name now.
    """
    before, now = _names_of(checkpoint), getattr(dataset, "class_names", None)
    if before and now and (difference := first_difference(list(now), before)):
        raise GCPError(
            f"{args.resume} was trained on other classes or in another order: {difference}; give the run's own data "
            "and --class-from, or a --class-map with its order."
        )


def say_other_classes(args: argparse.Namespace, model: nn.Module, dataset: Any) -> None:
    """Warns where a classifier is taken over whose classes have other names than those of the data set.

    Args:
        args: of a run that starts from weights, not from a checkpoint of its own.
        model: with the weights.
        dataset: the training data.
    """
    before, source = _names_of_start(args, model)
    now = getattr(dataset, "class_names", None)
    if before and now and len(before) == len(now) and (difference := first_difference(list(now), before)):
        _logger.warning(
            "%s: the classifier's weights belong to other classes or another order: %s; a --class-map gives the data "
            "set the order of the weights.",
            source,
            difference,
        )


def _names_of_start(args: argparse.Namespace, model: nn.Module) -> tuple[list[str], str]:
    if args.initial_checkpoint:
        try:
            return _names_of(load_training_checkpoint(args.initial_checkpoint)), args.initial_checkpoint
        except GCPError:
            return [], ""  # a bare state dict has no names
    if args.pretrained_path or not (args.pretrained or brings_weights(args.model)):
        return [], ""  # the classifier is new
    names = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    return (list(names) if isinstance(names, (list, tuple)) else []), args.model


def _names_of(checkpoint: Mapping[str, Any]) -> list[str]:
    record = checkpoint.get("gcp")
    names = record.get("class_names") if isinstance(record, Mapping) else None
    return [str(name) for name in names] if isinstance(names, (list, tuple)) else []
