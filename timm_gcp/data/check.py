"""Data sets that raise an error for an unreadable image, and the check of all images before training."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from timm.data import ImageDataset
from tqdm.auto import tqdm

from ..errors import GCPError
from ..output import BAR
from ..text import some_quoted
from .image_files import UnreadableImageError, decode_image, reason_of
from .system_errors import read_error

_logger = logging.getLogger(__name__)

_BATCH = 1024  # files handed to the pool at a time, so that a large data set does not queue at once


class StrictImageDataset(ImageDataset):
    """timm's ``ImageDataset`` that raises at an unreadable image, where timm takes the next one without a word.

    Args:
        root: folder or file of the data set; only recorded when ``reader`` is a reader.
        reader: a timm reader or the name of one.
        skip_bad_images: go on with the next readable image instead of raising, and log every file once (in each
            process). ``check_images`` takes such files out beforehand, so that no image counts twice. An error of
            the system (see ``read_error``) is raised all the same.
        orient: turn images upright by their EXIF orientation.
        **kwargs: those of timm's ``ImageDataset``.

    Attributes:
        class_names: names by label, or None.
        num_classes: number of labels, or None.
        skipped: names of the files skipped so far by this process.
    """

    def __init__(
        self, root: Any, reader: Any = None, skip_bad_images: bool = False, orient: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(root, reader=reader, **kwargs)
        self.skip_bad_images = skip_bad_images
        self.orient = orient
        self.class_names: list[str] | None = None
        self.num_classes: int | None = None
        self.skipped: list[str] = []

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        for step in range(len(self)):
            at = (index + step) % len(self) if step else index
            try:
                image, target, *features = self._read(at)
                break
            except UnreadableImageError as error:
                if not self.skip_bad_images:
                    raise
                self._skip(at, error)
        else:
            raise GCPError(f"none of the {len(self)} images can be read: check the files that the log names.")
        if self.transform is not None:
            image = self.transform(image)
        if target is None:
            target = -1  # timm's mark of a missing label
        elif self.target_transform is not None:
            target = self.target_transform(target)
        return (image, target) if self.additional_features is None else (image, target, *features)

    def _read(self, index: int) -> tuple[Any, ...]:
        try:
            file, target, *features = self.reader[index]
            with file:
                image: Any = file.read() if self.load_bytes else decode_image(file, self.input_img_mode, self.orient)
        except (IndexError, MemoryError):
            raise
        except Exception as error:  # decoders raise OSError, but also SyntaxError, ValueError, struct.error, ...
            name = self.filename(index, absolute=True)
            if (failure := read_error(name, error)) is not None:
                raise failure from error
            raise UnreadableImageError(
                f"image {name!r} cannot be read ({reason_of(error)}): replace it, or add --skip-bad-images to go on "
                "without it."
            ) from error
        return image, target, *features

    def _skip(self, index: int, error: UnreadableImageError) -> None:
        name = self.filename(index, absolute=True)
        if name not in self.skipped:
            self.skipped.append(name)
            _logger.warning("Skipped image %r (%s)", name, reason_of(error.__cause__))


def check_images(dataset: Any, progress: bool = True, workers: int | None = None) -> list[str]:
    """Decodes every image file of a data set once, before training.

    With ``dataset.skip_bad_images`` the unreadable ones are dropped from the reader's samples and logged; otherwise
    the first of them are named in an error. Data sets that are not lists of files (textures, tar files, torchvision's,
    Hugging Face's) are not decoded here: they raise, or skip, at the image itself.

    Args:
        dataset: what ``create_dataset`` returned.
        progress: show a progress bar where standard error is a terminal.
        workers: threads (decoding leaves Python's lock); None for one a core.

    Returns:
        The absolute names of the files that were dropped.

    Raises:
        GCPError: an image cannot be read and ``skip_bad_images`` is off, or no image of the data set (or, in a
            training set, of one of its classes) is left, or the system fails while an image is read.
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
    lost = {label for _, label in samples} - {label for _, label in kept}
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
    def error_of(index: int) -> UnreadableImageError | None:
        try:
            dataset._read(index)
        except UnreadableImageError as error:
            return error
        return None

    pool = ThreadPoolExecutor(workers or os.cpu_count())
    hidden = None if progress else True  # None: where standard error is no terminal
    try:
        with tqdm(total=len(dataset), desc="checking images", disable=hidden, bar_format=BAR) as bar:
            for start in range(0, len(dataset), _BATCH):
                for error in pool.map(error_of, range(start, min(start + _BATCH, len(dataset)))):
                    bar.update()
                    yield error
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, the queued images are not read
