"""The page of an explanation: every image beside its maps, in one file of HTML."""

import base64
import html
import io
from pathlib import Path

import numpy as np
from PIL import Image

from .figure import ExplainedImage

__all__ = ["ExplanationPage"]

_MOST = 200
"""Images on a page; a browser takes long to show many more."""

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1500px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; }
section { border-top: 1px solid #8884; padding: 1rem 0; }
h2 { font-size: 1rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { margin: 0; flex: 1 1 150px; max-width: 240px; }
img { width: 100%; display: block; }
figcaption { font-size: .85rem; overflow-wrap: anywhere; }
figcaption small { color: #888; }
"""


class ExplanationPage:
    """Collects images for a page."""

    def __init__(self) -> None:
        self._sections: list[str] = []
        self._left_out = 0

    def add(self, image: ExplainedImage) -> None:
        """Adds an image; of many, the page shows the first ones."""
        if len(self._sections) == _MOST:
            self._left_out += 1
            return
        tiles = [_tile(image.picture, "the image as the model sees it", "image")]
        for one in image.classes:
            name, parts = html.escape(one.name), html.escape(one.sum_text)
            for part in one.maps:
                caption = f"<b>{name}</b> {one.probability:.1%}<br><small>{parts}</small>"
                if part != "covariance":
                    caption = f"{name}, {part}"
                tiles.append(_tile(image.overlay(one, part), caption, f"contributions of the {part} to {name}"))
        title = html.escape(Path(image.file).name)
        self._sections.append(f'<section><h2>{title}</h2><div class="tiles">{"".join(tiles)}</div></section>')

    def text(self) -> str:
        """The page."""
        more = ""
        if self._left_out:
            more = f" The page shows {_MOST} images; the pictures of {self._left_out} more are beside it."
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>Explanation</title><style>{_STYLE}</style><h1>Where the covariance head looks</h1>"
            "<p>Each map divides the logit of a class among the positions of the feature map: red is evidence for the "
            "class, blue is evidence against it. The contributions of the covariance, with the other parts that are "
            "named, add up to the logit. All maps of an image have one scale. A position sees its surroundings too, as "
            f"far as the backbone does.{more}</p>{''.join(self._sections)}</html>\n"
        )


def _tile(picture: np.ndarray, caption: str, description: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    image = f'<img alt="{description}" src="data:image/jpeg;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
