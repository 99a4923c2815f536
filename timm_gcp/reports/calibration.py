"""Calibration: whether predictions of a confidence are right that often.

Source: Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017.
"""

from dataclasses import dataclass

import numpy as np

from ..predictions import Predictions

__all__ = ["BINS", "Calibration", "calibration_of"]

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Predictions by confidence, in bins of equal width.

    Attributes:
        edges: of the bins, ``[bins + 1]``.
        images: of each bin, ``[bins]``.
        confidence: mean in each bin; nan where it is empty, ``[bins]``.
        accuracy: share of right predictions in each bin; nan where it is empty, ``[bins]``.
    """

    edges: np.ndarray
    images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: mean of |accuracy − confidence| over the images, by bins (equation 3)."""
        filled = self.images > 0
        gap = np.abs(self.accuracy - self.confidence)[filled]
        return float((gap * self.images[filled]).sum() / self.images.sum())

    @property
    def excess(self) -> float:
        """Mean confidence less accuracy: positive where the model is too sure."""
        filled = self.images > 0
        difference = (self.confidence - self.accuracy)[filled]
        return float((difference * self.images[filled]).sum() / self.images.sum())


def calibration_of(predictions: Predictions, bins: int = BINS) -> Calibration:
    """Bins predictions by their confidence.

    Args:
        predictions: of at least one image.
        bins: their number; a bin holds its upper edge.
    """
    edges = np.linspace(0, 1, bins + 1)
    of_image = np.clip(np.searchsorted(edges, predictions.confidence, side="left") - 1, 0, bins - 1)
    images = np.bincount(of_image, minlength=bins)

    def mean(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(of_image, weights=values, minlength=bins)
        return np.divide(sums, images, out=np.full(bins, np.nan), where=images > 0)

    return Calibration(edges, images, mean(predictions.confidence), mean(predictions.right))
