"""Opens a data set by its options and checks its images."""

import sys
from collections.abc import Callable
from typing import Any

from .factory import create_dataset
from .image_check import check_images
from .options import DatasetOptions
from .preprocessing import image_mode

__all__ = ["open_dataset"]


def open_dataset(
    options: DatasetOptions,
    split: str,
    channels: int,
    *,
    is_training: bool = False,
    progress: bool = True,
    examine: Callable[[Any], None] | None = None,
    **arguments: Any,
) -> Any:
    """Opens one split of a data set; every image is opened once unless ``no_check_images`` is set.

    Args:
        options: which data set, and how it is read.
        split: name of the split.
        channels: of the images, 1 or 3.
        is_training: the split is trained on.
        progress: show a progress bar while the images are checked, where standard error is a terminal.
        examine: a check of the data set before its images are opened.
        **arguments: further arguments of ``create_dataset``.

    Returns:
        A data set in timm's form.

    Raises:
        GCPError: the data set does not exist, is empty, contradicts itself or has an image that cannot be read.
    """
    dataset = create_dataset(
        options.dataset,
        options.data_dir,
        split,
        is_training=is_training,
        class_map=options.class_map,
        input_img_mode=image_mode(channels),
        skip_bad_images=options.skip_bad_images,
        orient=not options.ignore_exif_orientation,
        class_from=options.class_from,
        **arguments,
    )
    if examine is not None:
        examine(dataset)
    if not options.no_check_images:
        check_images(dataset, progress=progress and sys.stderr.isatty())
    return dataset
