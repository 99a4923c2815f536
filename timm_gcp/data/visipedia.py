"""Reads the lists of CUB-200-2011 and NABirds: images, labels, classes and the official split, each in a file."""

import os
from pathlib import Path

from ..errors import GCPError
from ..text_files import numbered_lines
from .reader import Listing

_SPLITS = {"train": "1", "test": "0"}  # as train_test_split.txt writes them

LISTS = ("image_class_labels.txt", "images.txt", "train_test_split.txt", "classes.txt")
"""The files that are read, in the data set's folder; the images are in ``images/``."""


def read_cub(folder: Path, split: str) -> Listing:
    """Reads one split of the folder ``CUB_200_2011``, as its archive holds it.

    Args:
        folder: the one with `LISTS`.
        split: 'train' or 'test'.

    Returns:
        Images with labels from 0, in the order of ``images.txt``, and class names such as 'Black footed Albatross'.

    Raises:
        GCPError: a list is malformed, two of them contradict each other, or the folder is that of NABirds.

    Source: Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, CNS-TR-2011-001.
    """
    images, classes = _read(folder, split)
    index = {number: label for label, number in enumerate(classes)}
    other = next((name for name in classes.values() if not name.partition(".")[0].isdigit()), None)
    if other is not None:
        raise GCPError(
            f"--data-dir {str(folder)!r} is not CUB-200-2011, whose classes are named as '001.Black_footed_Albatross', "
            f"not {other!r}: give its folder, or read NABirds by --dataset nabirds."
        )
    names = [name.partition(".")[2].replace("_", " ") for name in classes.values()]
    return [(path, index[number]) for path, number in images], names


def read_nabirds(folder: Path, split: str) -> Listing:
    """Reads one split of the folder ``nabirds``, as its archive holds it.

    Its ``classes.txt`` names the whole tree of birds. The classes are the nodes that have images, in the order of that
    file: a species, or one of its forms, such as 'Summer Tanager (Adult Male)'.

    Args:
        folder: the one with `LISTS`.
        split: 'train' or 'test'.

    Returns:
        As `read_cub`.

    Raises:
        GCPError: a list is malformed, or two of them contradict each other.

    Source: Van Horn et al., Building a bird recognition app and large scale dataset with citizen scientists, CVPR 2015.
    """
    images, nodes = _read(folder, split)
    used = set(_table(folder / "image_class_labels.txt").values())
    numbers = [number for number in nodes if number in used]
    index = {number: label for label, number in enumerate(numbers)}
    return [(path, index[number]) for path, number in images], [nodes[number] for number in numbers]


def _read(folder: Path, split: str) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Path and class number of the images of a split, and the names of all classes by number."""
    paths = _table(folder / "images.txt")
    labels = _table(folder / "image_class_labels.txt")
    parts = _table(folder / "train_test_split.txt")
    classes = _table(folder / "classes.txt")
    images = []
    for image, path in paths.items():
        if labels.get(image) not in classes or parts.get(image) not in _SPLITS.values():
            raise GCPError(
                f"the lists in {str(folder)!r} contradict each other at image {image} ({path}): extract the archive "
                "again."
            )
        if parts[image] == _SPLITS[split]:
            images.append((os.path.join(folder, "images", path), labels[image]))
    return images, classes


def _table(file: Path) -> dict[str, str]:
    """The values of the lines 'identifier value', by identifier: a number, or in NABirds a UUID."""
    table = {}
    for line_number, line in numbered_lines(file):
        identifier, _, value = line.partition(" ")
        if not value or identifier in table:
            raise GCPError(
                f"{str(file)!r}, line {line_number}: {line!r} is not a new identifier and a value: extract the "
                "archive again."
            )
        table[identifier] = value.strip()
    return table
