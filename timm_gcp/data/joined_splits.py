"""Several splits of a data set as one."""

import copy
import itertools
import os
from collections.abc import Mapping
from typing import Any

from ..errors import GCPError
from .image_dataset import StrictImageDataset
from .reader import SampleReader

__all__ = ["check_same_classes", "join_splits"]


def join_splits(splits: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Joins splits of a data set, one after another.

    Args:
        splits: name of a split → its images, as ``open_dataset`` returns them; not changed.

    Returns:
        A data set in timm's form, whose file names are relative to the folder of all splits, and the name of the split
        of each image. A single split is returned as it is.

    Raises:
        GCPError: two splits have different classes or the same images, or one of several is no list of image files.
    """
    first, *others = splits
    if not others:
        return splits[first], [first] * len(splits[first])
    for name, dataset in splits.items():
        if not isinstance(dataset, StrictImageDataset) or not isinstance(dataset.reader, SampleReader):
            raise GCPError(
                f"Split '{name}' is no list of image files, so it cannot be joined with others; give one split."
            )
    for name, other in itertools.combinations(splits, 2):
        check_same_classes(splits[name], splits[other], name, other)
        if splits[name].reader.samples == splits[other].reader.samples:
            raise GCPError(f"Splits '{name}' and '{other}' are the same images; give one of them.")
    joined = copy.copy(splits[first])
    joined.reader = SampleReader(os.path.commonpath([os.path.abspath(each.reader.root) for each in splits.values()]))
    joined.reader.samples = [sample for each in splits.values() for sample in each.reader.samples]
    return joined, [name for name, each in splits.items() for _ in range(len(each))]


def check_same_classes(dataset: Any, other: Any, name: str, other_name: str) -> None:
    """Checks that the labels of two splits mean the same classes.

    Args:
        dataset: one split, in timm's form.
        other: the other one.
        name: of the first split, for the message.
        other_name: of the second.

    Raises:
        GCPError: both have class names, and they differ.
    """
    names, others = (getattr(each, "class_names", None) for each in (dataset, other))
    if names and others and list(names) != list(others):
        differ = sorted(set(names) ^ set(others)) or list(others)
        raise GCPError(
            f"Splits '{name}' and '{other_name}' have different classes (such as '{differ[0]}'); make them agree, or "
            "give a --class-map."
        )
