"""How many images each class of a data set has."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..text import some_of

__all__ = ["class_counts", "describe_counts"]

_LABELS = ("targets", "labels", "_labels")  # torchvision's data sets


def class_counts(dataset: Any, num_classes: int) -> np.ndarray | None:
    """Images of each class ``[num_classes]``; None where the data set does not tell without reading all of it."""
    samples = getattr(getattr(dataset, "reader", None), "samples", None)
    try:
        if samples is not None:
            labels = np.asarray([sample[1] for sample in samples])
        else:
            labels = next(np.asarray(getattr(dataset, name)) for name in _LABELS if hasattr(dataset, name))
        return np.bincount(labels.astype(np.int64, casting="safe"), minlength=num_classes)
    except (StopIteration, TypeError, ValueError, IndexError, KeyError):
        return None


def describe_counts(dataset: Any, num_classes: int, names: Sequence[str] | None) -> str:
    """The images of a split in one phrase: '210 images, 30 (wren) to 60 (robin) a class'."""
    number = f"{len(dataset)} images" if hasattr(dataset, "__len__") else "a stream of images"
    counts = class_counts(dataset, num_classes)
    if counts is None or len(counts) != num_classes:
        return number
    least, most = int(counts.argmin()), int(counts.argmax())
    if counts[least] == counts[most]:
        return f"{number}, {counts[most]} a class"

    def shown(label: int) -> str:
        return f"{counts[label]} ({names[label] if names else f'class {label}'})"

    empty = [str(names[label] if names else label) for label in np.flatnonzero(counts == 0).tolist()]
    if empty:
        return f"{number}, at most {shown(most)} a class, none of {some_of(empty, 3)}"
    return f"{number}, {shown(least)} to {shown(most)} a class"
