"""The images whose classes are predicted: files, all images of folders, and PIL images."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..data import find_images, open_image
from ..data.image_files import prepare_image
from ..errors import GCPError

__all__ = ["Images", "Source", "image_sources"]

Images = str | os.PathLike[str] | Image.Image | Iterable[str | os.PathLike[str] | Image.Image]
"""An image file, a folder of them, a PIL image, or several of these."""


@dataclass(frozen=True)
class Source:
    """An image to predict.

    Attributes:
        name: path of the file; that of a PIL image without a file is its number, such as 'image 2'.
        image: path of the file, or the PIL image.
    """

    name: Path
    image: Path | Image.Image

    def read(self, mode: str, orient: bool = True) -> Image.Image:
        """The image, decoded and converted.

        Args:
            mode: of PIL, such as 'RGB'.
            orient: apply the EXIF orientation.

        Raises:
            UnreadableImageError: there is no such file, or it cannot be decoded.
            ReadError: the operating system failed while it was read.
        """
        if isinstance(self.image, Image.Image):
            return prepare_image(self.image, mode, orient, str(self.name))
        return open_image(self.image, mode, orient)


def image_sources(images: Images) -> list[Source]:
    """Lists images in the order in which they are given, those of a folder sorted; a file that is given twice, once.

    Args:
        images: files, folders and PIL images, one or several.

    Raises:
        GCPError: a folder has no images, there is nothing, or something else than an image is given.
    """
    given: Iterable[Any] = [images] if isinstance(images, (str, os.PathLike, Image.Image)) else _several(images)
    found: list[Source] = []
    seen: set[Path] = set()
    for number, each in enumerate(given, 1):
        if isinstance(each, Image.Image):
            found.append(Source(Path(getattr(each, "filename", "") or f"image {number}"), each))
        elif isinstance(each, (str, os.PathLike)):
            files = [file for file in find_images(Path(each).expanduser()) if file not in seen]
            found += [Source(file, file) for file in files]
            seen.update(files)
        else:
            raise GCPError(
                f"Image {number} is of type {type(each).__name__}; give paths or PIL images (PIL.Image.fromarray makes "
                "one of an array)."
            )
    if not found:
        raise GCPError("There is no image to predict; give paths or PIL images.")
    return found


def _several(images: Any) -> Iterable[Any]:
    if not isinstance(images, Iterable) or hasattr(images, "dtype"):  # an array passes as an iterable of its rows
        raise GCPError(
            f"Images are given as paths or PIL images, one or several, not as {type(images).__name__} "
            "(PIL.Image.fromarray makes an image of an array)."
        )
    return images
