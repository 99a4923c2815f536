"""Photographs without classes: all images in a folder and its subfolders, in timm's form."""

import copy
import os
from pathlib import Path
from typing import Any

from .folder_scan import find_images
from .image_dataset import StrictImageDataset
from .image_files import is_image
from .preprocessing import image_mode
from .reader import SampleReader

__all__ = ["has_loose_images", "open_unlabelled", "without_labels"]

_NO_LABEL = -1  # timm's mark of a missing label


def has_loose_images(folder: str | os.PathLike[str]) -> bool:
    """Whether images lie in the folder itself, so that its subfolders are no classes."""
    return os.path.isdir(folder) and any(is_image(entry.name) for entry in os.scandir(folder) if entry.is_file())


def open_unlabelled(
    folder: str | os.PathLike[str], channels: int, *, skip_bad_images: bool = False, orient: bool = True
) -> Any:
    """Opens all images in a folder and its subfolders.

    Args:
        folder: of the images.
        channels: of the images, 1 or 3.
        skip_bad_images: skip unreadable images with a warning.
        orient: turn images upright by their EXIF orientation.

    Returns:
        A data set in timm's form; every label is -1, and ``class_names`` is None.

    Raises:
        GCPError: the folder has no images.
    """
    reader = SampleReader(folder)
    reader.samples = [(str(file), _NO_LABEL) for file in find_images(Path(folder))]
    return StrictImageDataset(
        folder, reader=reader, input_img_mode=image_mode(channels), skip_bad_images=skip_bad_images, orient=orient
    )


def without_labels(dataset: Any) -> Any:
    """A data set of image files without its labels.

    Args:
        dataset: of ``create_dataset``; not changed.

    Returns:
        As `open_unlabelled`, with the same images in the same order.
    """
    plain = copy.copy(dataset)
    plain.reader = SampleReader(dataset.reader.root)
    plain.reader.samples = [(file, _NO_LABEL) for file, _ in dataset.reader.samples]
    plain.class_names, plain.num_classes, plain.multi_label = None, None, False
    return plain
