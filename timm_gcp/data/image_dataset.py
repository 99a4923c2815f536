"""A data set of image files that raises an error for an unreadable image, or skips it with a warning."""

import logging
from typing import Any

from timm.data import ImageDataset

from ..errors import GCPError
from .image_files import UnreadableImageError, decode_image, reason_of
from .system_errors import read_error

__all__ = ["StrictImageDataset"]

_logger = logging.getLogger(__name__)


class StrictImageDataset(ImageDataset):
    """timm's ``ImageDataset``, except that an unreadable image raises an error; timm silently takes the next one.

    Args:
        root: folder or file of the data set; only recorded when ``reader`` is a reader.
        reader: a timm reader or the name of one.
        skip_bad_images: take the next readable image instead of raising, and log each unreadable file once per process.
            ``check_images`` removes such files beforehand, so that no image counts twice. An error of the operating
            system (see ``read_error``) is raised in either case.
        orient: turn images upright by their EXIF orientation.
        **kwargs: those of timm's ``ImageDataset``.

    Attributes:
        class_names: names by label, or None.
        num_classes: number of labels, or None.
        multi_label: an image has any number of labels: its target is a vector of zeros and ones.
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
        self.multi_label = False
        self.skipped: list[str] = []

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        for step in range(len(self)):
            at = (index + step) % len(self) if step else index
            try:
                image, target, *features = self.read(at)
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

    def read(self, index: int) -> tuple[Any, ...]:
        """The decoded image of an index, its label and further entries of the reader, before any transform.

        Raises:
            UnreadableImageError: the image cannot be decoded.
            ReadError: the operating system failed while the file was read.
        """
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
