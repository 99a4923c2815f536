"""Reads the lists of CUB-200-2011: images, labels, classes and the official split, each in a file of its own."""

import os
from pathlib import Path

from ..errors import GCPError
from ..text_files import numbered_lines
from .reader import Listing

_SPLITS = {"train": "1", "test": "0"}  # as train_test_split.txt writes them


def read_cub(folder: Path, split: str) -> Listing:
    """Reads one split of the folder ``CUB_200_2011``, as its archive holds it.

    Args:
        folder: the one with ``images.txt``, ``image_class_labels.txt``, ``train_test_split.txt``, ``classes.txt``.
        split: 'train' or 'test'.

    Returns:
        Images with labels from 0, in the order of ``images.txt``, and class names such as 'Black footed Albatross'.

    Raises:
        GCPError: a list is malformed, or two of them contradict each other.

    Source: Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, CNS-TR-2011-001.
    """
    paths = _table(folder / "images.txt")
    labels = _table(folder / "image_class_labels.txt")
    parts = _table(folder / "train_test_split.txt")
    classes = _table(folder / "classes.txt")
    index = {number: label for label, number in enumerate(classes)}
    samples = []
    for image, path in paths.items():
        if labels.get(image) not in index or parts.get(image) not in _SPLITS.values():
            raise GCPError(
                f"the lists in {str(folder)!r} contradict each other at image {image} ({path}): extract the archive "
                "again."
            )
        if parts[image] == _SPLITS[split]:
            samples.append((os.path.join(folder, "images", path), index[labels[image]]))
    return samples, [name.partition(".")[2].replace("_", " ") for name in classes.values()]


def _table(file: Path) -> dict[str, str]:
    """The values of the lines 'number value', by number."""
    table = {}
    for line_number, line in numbered_lines(file):
        number, _, value = line.partition(" ")
        if not number.isdigit() or not value or number in table:
            raise GCPError(
                f"{str(file)!r}, line {line_number}: {line!r} is not a new number and a value: extract the "
                "archive again."
            )
        table[number] = value.strip()
    return table
