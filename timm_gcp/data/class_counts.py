"""Counts the images of each class of a data set."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..text import some_of

__all__ = ["class_counts", "class_labels", "describe_counts", "labels_of"]

_LABELS = ("targets", "labels", "_labels")  # torchvision's data sets


def class_counts(dataset: Any, num_classes: int) -> np.ndarray | None:
    """Counts the images of each class.

    Args:
        dataset: of ``create_dataset``, or of torchvision.
        num_classes: number of classes.

    Returns:
        Counts ``[num_classes]``, int64; None if the labels are known only when the images are read.
    """
    labels = class_labels(dataset)
    if getattr(dataset, "multi_label", False):
        labels = np.array(list(labels_of(dataset.reader.samples)), dtype=np.int64)
    try:
        return None if labels is None else np.bincount(labels, minlength=num_classes)
    except (TypeError, ValueError):
        return None


def labels_of(samples: Iterable[tuple[str, Any]]) -> Iterator[int]:
    """The labels of all samples of a reader, one after another, also where a sample has several or none."""
    for _, labels in samples:
        yield from labels if isinstance(labels, tuple) else (labels,)


def class_labels(dataset: Any) -> np.ndarray | None:
    """The label of each image.

    Args:
        dataset: as for ``class_counts``.

    Returns:
        Labels ``[N]``, int64; None if they are known only when the images are read, or an image may have several.
    """
    if getattr(dataset, "multi_label", False):
        return None
    reader = getattr(dataset, "reader", None)
    samples, targets = getattr(reader, "samples", None), getattr(reader, "targets", None)
    try:
        if targets is not None:  # timm's readers of .tar files
            labels = np.asarray(targets)
        elif samples is not None:
            labels = np.asarray([sample[1] for sample in samples])
        else:
            labels = next(np.asarray(getattr(dataset, name)) for name in _LABELS if hasattr(dataset, name))
        return labels.astype(np.int64, casting="safe")
    except (StopIteration, TypeError, ValueError, IndexError, KeyError):
        return None


def describe_counts(dataset: Any, num_classes: int, names: Sequence[str] | None) -> str:
    """Describes the images of a split: '210 images, 30 (wren) to 60 (robin) per class'.

    Args:
        dataset: as for ``class_counts``.
        num_classes: number of classes.
        names: of the classes, by label; None shows the labels.
    """
    number = f"{len(dataset)} images" if hasattr(dataset, "__len__") else "a stream of images"
    if getattr(dataset, "multi_label", False) and (none := sum(not labels for _, labels in dataset.reader.samples)):
        number += f" ({none} without a label)"
    counts = class_counts(dataset, num_classes)
    if counts is None or len(counts) != num_classes:
        return number
    least, most = int(counts.argmin()), int(counts.argmax())
    if counts[least] == counts[most]:
        return f"{number}, {counts[most]} per class"

    def shown(label: int) -> str:
        return f"{counts[label]} ({names[label] if names else f'class {label}'})"

    empty = [str(names[label] if names else label) for label in np.flatnonzero(counts == 0).tolist()]
    if empty:
        return f"{number}, at most {shown(most)} per class, none of {some_of(empty, 3)}"
    return f"{number}, {shown(least)} to {shown(most)} per class"
