"""The page of an explanation: every image beside its maps, in one file of HTML."""

from pathlib import Path
from typing import Any

from PIL import Image

from ..reports.page import save_page
from ..reports.thumbnails import data_uri
from .figure import ExplainedImage

__all__ = ["ExplanationPage"]

_MOST = 200
"""Images on a page; a browser takes long to show many more."""


class ExplanationPage:
    """Collects images for a page."""

    def __init__(self) -> None:
        self._images: list[dict[str, Any]] = []
        self._left_out = 0

    def add(self, image: ExplainedImage) -> None:
        """Adds an image; of many, the page shows the first ones."""
        if len(self._images) == _MOST:
            self._left_out += 1
            return
        tiles = [
            {
                "name": one.name,
                "probability": one.probability,
                "part": part,
                "sum": one.sum_text if part == "covariance" else "",
                "picture": data_uri(Image.fromarray(image.overlay(one, part))),
            }
            for one in image.classes
            for part in one.maps
        ]
        picture = data_uri(Image.fromarray(image.picture))
        self._images.append({"file": Path(image.file).name, "picture": picture, "tiles": tiles})

    def write(self, path: Path) -> None:
        """Writes the page."""
        save_page(path, "explanation.html", images=self._images, left_out=self._left_out)
