"""Small pictures of the images of a data set, inside the page."""

import base64
import copy
import io
import logging
from typing import Any

from PIL import Image
from torch.utils.data import IterableDataset

from ..data.image_dataset import StrictImageDataset
from ..text import one_line

__all__ = ["Thumbnails", "data_uri"]

_QUALITY = 80
_logger = logging.getLogger(__name__)


class Thumbnails:
    """Makes pictures of the images of a data set, read through the data set itself.

    Args:
        dataset: in timm's form; one that is streamed gives no pictures.
    """

    def __init__(self, dataset: Any) -> None:
        # Every Dataset of torch has __getitem__, also where it only raises an error.
        streamed = isinstance(dataset, IterableDataset)
        self.there = not streamed and hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        self._dataset = dataset
        self._made: dict[tuple[int, int], str | None] = {}

    def uri(self, index: int, size: int) -> str | None:
        """A JPEG picture as a ``data:`` address; None where the image cannot be had.

        Args:
            index: of the image.
            size: largest side, pixels.
        """
        if (index, size) not in self._made:
            self._made[index, size] = self._uri(index, size) if self.there else None
        return self._made[index, size]

    def _uri(self, index: int, size: int) -> str | None:
        try:
            image = _image(self._dataset, index).convert("RGB")
            image.thumbnail((size, size))
            return data_uri(image)
        except Exception as error:  # a picture that cannot be made must not cost the report
            _logger.warning("No picture of image %d in the report (%s).", index, one_line(error))
            return None


def data_uri(image: Image.Image) -> str:
    """An image as a JPEG picture in a ``data:`` address.

    Args:
        image: RGB.
    """
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _image(dataset: Any, index: int) -> Image.Image:
    """The image of an index, before any transform."""
    if isinstance(dataset, StrictImageDataset):
        image = dataset.read(index)[0]
    else:
        plain = copy.copy(dataset)
        for name in ("transform", "transforms"):  # torchvision has both
            if hasattr(plain, name):
                setattr(plain, name, None)
        image = plain[index][0]
    if isinstance(image, bytes):
        image = Image.open(io.BytesIO(image))
    if not isinstance(image, Image.Image):
        raise TypeError(f"the data set gives no picture, but a {type(image).__name__}")
    return image
