"""Opens data sets by their options and checks their images."""

import sys
from collections.abc import Callable
from typing import Any

from .factory import create_dataset
from .holdout import check_apart, divide, split_to_divide
from .image_check import check_images
from .joined_splits import check_same_classes
from .options import DatasetOptions, TrainingDataOptions
from .preprocessing import image_mode

__all__ = ["download_splits", "open_dataset", "open_splits"]


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


def download_splits(options: TrainingDataOptions, **arguments: Any) -> None:
    """Downloads the splits of a data set where they are missing.

    Args:
        options: which data set, and its splits.
        **arguments: further arguments of ``create_dataset``.
    """
    for split in filter(None, (options.train_split, options.val_split)):
        create_dataset(options.dataset, options.data_dir, split, download=True, **arguments)


def open_splits(
    options: TrainingDataOptions, channels: int, *, progress: bool = True, **arguments: Any
) -> tuple[Any, Any]:
    """Opens the images to train on and those to evaluate; a part is held out where the options ask for it.

    Fills in ``train_split``, ``val_split`` and ``held_out`` of the options.

    Args:
        options: which data set, its splits, and how it is read.
        channels: of the images, 1 or 3.
        progress: as in `open_dataset`.
        **arguments: further arguments of ``create_dataset``.

    Returns:
        Two data sets in timm's form; None in place of the second without an evaluation split.

    Raises:
        GCPError: as `open_dataset`; the two hold the same images, or have different classes.
    """

    def opened(split: str, is_training: bool = False) -> Any:
        return open_dataset(options, split, channels, is_training=is_training, progress=progress, **arguments)

    divided = split_to_divide(
        options.dataset, options.data_dir, options.train_split, options.val_split, options.val_fraction
    )
    if divided is not None:
        # The parts need names for messages and records, also where the folder has none.
        options.train_split, options.val_split = options.train_split or "train", options.val_split or "validation"
        options.held_out = True
        return divide(opened(divided, is_training=True), options.val_fraction, options.val_seed)
    train = opened(options.train_split, is_training=True)
    evaluation = opened(options.val_split) if options.val_split else None
    if evaluation is not None:
        check_apart(train, evaluation, options.train_split, options.val_split)
        check_same_classes(train, evaluation, options.train_split, options.val_split)
    return train, evaluation
