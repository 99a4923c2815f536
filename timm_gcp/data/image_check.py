"""Checks before training that all images of a data set can be decoded."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm.auto import tqdm

from ..errors import GCPError
from ..output import BAR
from ..text import some_quoted
from .class_counts import labels_of
from .image_dataset import StrictImageDataset
from .image_files import UnreadableImageError, reason_of

__all__ = ["check_images"]

_logger = logging.getLogger(__name__)

_BATCH = 1024  # files handed to the pool at a time, which bounds the memory of its queue


def check_images(dataset: Any, progress: bool = True, workers: int | None = None) -> list[str]:
    """Decodes every image file of a data set once, before training.

    With ``dataset.skip_bad_images`` the unreadable ones are removed from the reader's samples and logged; otherwise an
    error names the first of them. Data sets that are not lists of files (textures, tar files, torchvision's, Hugging
    Face's) are not decoded here; an unreadable image is found when it is loaded.

    Args:
        dataset: what ``create_dataset`` returned.
        progress: show a progress bar where standard error is a terminal.
        workers: threads (decoders release Python's lock); None for one per core.

    Returns:
        The absolute names of the files that were removed.

    Raises:
        GCPError: an image cannot be read and ``skip_bad_images`` is off, or no image of the data set or of one of its
            classes is left, or the operating system fails while an image is read.
    """
    samples = getattr(getattr(dataset, "reader", None), "samples", None)
    if not isinstance(dataset, StrictImageDataset) or not isinstance(samples, list):
        return []
    bad = {index: error for index, error in enumerate(_errors(dataset, progress, workers)) if error is not None}
    if not bad:
        return []
    names = [dataset.filename(index, absolute=True) for index in bad]
    if not dataset.skip_bad_images:
        if len(bad) == 1:
            raise next(iter(bad.values()))
        raise GCPError(
            f"{len(bad)} of {len(samples)} images cannot be read ({some_quoted(names)}): replace them, or add "
            "--skip-bad-images to go on without them."
        )
    kept = [sample for index, sample in enumerate(samples) if index not in bad]
    if not kept:
        raise GCPError(f"none of the {len(samples)} images can be read ({some_quoted(names)}): replace them.")
    lost = set(labels_of(samples)) - set(labels_of(kept))
    if lost:
        known = dataset.class_names
        classes = [known[label] if known else str(label) for label in sorted(lost)]
        raise GCPError(
            f"no image of class {some_quoted(classes)} can be read: replace the files (such as {names[0]!r}), or take "
            "the class out."
        )
    for index, name in zip(bad, names, strict=True):
        _logger.warning("Skipped image %r (%s)", name, reason_of(bad[index].__cause__))
    _logger.warning("Skipped %d unreadable images of %d", len(bad), len(samples))
    dataset.reader.samples = kept
    dataset.skipped.extend(names)
    return names


def _errors(dataset: StrictImageDataset, progress: bool, workers: int | None) -> Iterator[UnreadableImageError | None]:
    """Yields for each image, in order, why it cannot be read, or None."""

    def error_of(index: int) -> UnreadableImageError | None:
        try:
            dataset.read(index)
        except UnreadableImageError as error:
            return error
        return None

    pool = ThreadPoolExecutor(workers or os.cpu_count())
    hidden = None if progress else True  # None hides the bar where standard error is no terminal
    try:
        with tqdm(total=len(dataset), desc="checking images", disable=hidden, bar_format=BAR) as bar:
            for start in range(0, len(dataset), _BATCH):
                for error in pool.map(error_of, range(start, min(start + _BATCH, len(dataset)))):
                    bar.update()
                    yield error
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, the queued images are not read
