"""The sizes of the images, as quantiles."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .image_facts import ImageFacts

__all__ = ["LEVELS", "Sizes", "sizes_of"]

LEVELS = (0.0, 0.1, 0.5, 0.9, 1.0)
"""The levels of the quantiles."""


@dataclass(frozen=True)
class Sizes:
    """Quantiles at `LEVELS`.

    Attributes:
        shorter, longer: sides, pixels.
        aspect: width over height, as the image is seen.
        bytes: of a file.
    """

    shorter: list[int]
    longer: list[int]
    aspect: list[float]
    bytes: list[int]


def sizes_of(facts: Sequence[ImageFacts]) -> Sizes | None:
    """The sizes of images that can be decoded; None where there is none."""
    there = [each for each in facts if each.width]
    if not there:
        return None
    sides = np.array([(each.width, each.height) for each in there])
    turned = np.array([each.orientation in (5, 6, 7, 8) for each in there])
    sides[turned] = sides[turned, ::-1]

    def quantiles(values: np.ndarray) -> list[float]:
        found: list[float] = np.quantile(values, LEVELS).tolist()
        return found

    return Sizes(
        [round(each) for each in quantiles(sides.min(1))],
        [round(each) for each in quantiles(sides.max(1))],
        [round(each, 3) for each in quantiles(sides[:, 0] / sides[:, 1])],
        [round(each) for each in quantiles(np.array([each.bytes for each in there]))],
    )
