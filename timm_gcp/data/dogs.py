"""Reads the lists of Stanford Dogs: MATLAB files with the paths and labels of the official split."""

import os
from pathlib import Path

from ..errors import GCPError
from .reader import Listing


def read_dogs(folder: Path, split: str) -> Listing:
    """Reads one split of Stanford Dogs, from the folder into which ``images.tar`` and ``lists.tar`` are extracted.

    Args:
        folder: the one with ``Images/``, ``train_list.mat`` and ``test_list.mat``.
        split: 'train' or 'test'.

    Returns:
        Images with labels from 0, in the order of the list, and breeds by label, such as 'Maltese dog'.

    Raises:
        GCPError: the list cannot be read, or a breed has two labels.

    Source: Khosla et al., Novel Dataset for Fine-Grained Image Categorization, CVPR Workshop on FGVC 2011.
    """
    from scipy.io import loadmat  # takes long to load

    file = folder / f"{split}_list.mat"
    try:
        table = loadmat(file, squeeze_me=True)
        paths = [str(path) for path in table["file_list"]]
        labels = [int(label) - 1 for label in table["labels"]]
    except Exception as error:  # scipy raises errors of many classes at a damaged file
        raise GCPError(f"{str(file)!r} is not a list of Stanford Dogs: extract lists.tar again.") from error
    breeds = {label: path.partition("/")[0] for path, label in zip(paths, labels, strict=True)}
    names = [breeds[label].partition("-")[2].replace("_", " ") for label in sorted(breeds)]
    if any(path.partition("/")[0] != breeds[label] for path, label in zip(paths, labels, strict=True)):
        raise GCPError(f"{str(file)!r} gives two breeds the same label: extract lists.tar again.")
    return [(os.path.join(folder, "Images", path), label) for path, label in zip(paths, labels, strict=True)], names
