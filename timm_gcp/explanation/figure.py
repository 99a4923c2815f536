"""One image and the contributions to its most probable classes, side by side, as a picture."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..plots import new_figure, save_figure
from .heat_map import heat_map

__all__ = ["ExplainedClass", "ExplainedImage", "draw"]

_SIDE = 2.3  # inches of a panel
_TITLE: dict[str, Any] = {"fontsize": 9, "parse_math": False}  # names may have dollar signs


@dataclass(frozen=True)
class ExplainedClass:
    """What is known of one class of one image.

    Attributes:
        name: of the class.
        probability: of the class.
        logit: of the class.
        parts: of the logit, by name: 'covariance', 'mean', 'class token', 'bias'.
        maps: contributions ``[h, w]`` by the name of their part: 'covariance', and 'mean' where there is one.
    """

    name: str
    probability: float
    logit: float
    parts: dict[str, float]
    maps: dict[str, Tensor]

    @property
    def sum_text(self) -> str:
        """The logit as a sum of its parts: 'logit 5.20 = covariance +4.90, bias +0.30'."""
        parts = ", ".join(f"{name} {signed(value)}" for name, value in self.parts.items())
        return f"logit {signed(self.logit)} = {parts}"


def signed(value: float) -> str:
    """A number of two decimals with its sign."""
    return f"{value:+.2f}".replace("-", "−")


@dataclass(frozen=True)
class ExplainedImage:
    """An image with its classes.

    Attributes:
        file: its name.
        picture: what the model saw, ``[H, W, 3]`` in uint8.
        classes: the most probable first.
    """

    file: str
    picture: np.ndarray
    classes: list[ExplainedClass]

    @property
    def largest(self) -> float:
        """The largest magnitude of all contributions: one scale for all maps of an image."""
        return max(float(each.abs().max()) for one in self.classes for each in one.maps.values())

    def overlay(self, one: ExplainedClass, part: str) -> np.ndarray:
        """The contributions of a part to a class, drawn over the picture; ``[H, W, 3]`` in uint8."""
        return heat_map(self.picture, one.maps[part], self.largest)


def draw(image: ExplainedImage, path: Path) -> None:
    """Writes a PNG file: the photograph, then a column for each class and a row for each part that has positions.

    Args:
        image: with its classes.
        path: of the file.
    """
    parts = list(image.classes[0].maps)
    columns = 1 + len(image.classes)
    figure = new_figure(figsize=(_SIDE * columns, (_SIDE + 0.25) * len(parts) + 0.95), layout="constrained")
    grid = figure.subplots(len(parts), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    grid[0][0].imshow(image.picture)
    name = Path(image.file).name
    grid[0][0].set_title(name if len(name) <= 28 else f"{name[:14]}…{name[-13:]}", **_TITLE)
    for column, one in enumerate(image.classes, 1):
        for row, part in enumerate(parts):
            axes = grid[row][column]
            axes.imshow(image.overlay(one, part))
            name = "\n".join(textwrap.wrap(one.name, 24)[:2])
            title = f"{name}\n{one.probability:.1%}" if row == 0 else ""
            axes.set_title(f"{title}\n{part} {signed(one.parts[part])}".strip(), **_TITLE)
    figure.supxlabel(
        f"Red: evidence for the class, blue: against it. Full colour: {image.largest:.3g} of a logit at one position.",
        fontsize=8,
    )
    save_figure(figure, path, dpi=100)
