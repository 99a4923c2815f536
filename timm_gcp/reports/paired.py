"""Compares two models on the same images: difference of their accuracy and McNemar's exact test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..predictions import Predictions
from .metrics import Interval, Z

__all__ = ["Paired", "aligned", "compare_paired", "holm", "mcnemar"]


@dataclass(frozen=True)
class Paired:
    """Two models on the same images.

    Attributes:
        images: their number.
        only_first: images that only the first model recognises.
        only_second: images that only the second model recognises.
        difference: top-1 accuracy of the first less that of the second; the interval is that of Agresti and Min
            (Statistics in Medicine 24, 2005), which adds half an image to each of the four cells.
        p: of McNemar's exact test.
        adjusted: p, adjusted for the number of comparisons (`holm`).
    """

    images: int
    only_first: int
    only_second: int
    difference: Interval
    p: float
    adjusted: float = math.nan


def aligned(first: Predictions, second: Predictions) -> np.ndarray | None:
    """Where the images of one model are among those of another.

    Args:
        first: predictions of the one.
        second: predictions of the other.

    Returns:
        For each image of the first its place in the second, ``[n]``; None unless both have the same images of the same
        classes, by their names.
    """
    keys, others = ([*zip(each.images, _true_names(each), strict=True)] for each in (first, second))
    if keys == others:
        return np.arange(len(keys))
    places = {key: place for place, key in enumerate(others)}
    if len(keys) != len(others) or len(places) != len(others) or set(keys) != set(places):
        return None
    return np.array([places[key] for key in keys])


def _true_names(predictions: Predictions) -> list[str]:
    return [predictions.class_names[label] for label in predictions.labels.tolist()]


def compare_paired(first: Predictions, second: Predictions) -> Paired | None:
    """Compares two models image by image; None where their images are not the same."""
    places = aligned(first, second)
    if places is None:
        return None
    right, other = first.right, second.right[places]
    n, only_first, only_second = len(right), int((right & ~other).sum()), int((other & ~right).sum())
    more, differ = only_first - only_second, only_first + only_second
    centre, half = more / (n + 2), Z * math.sqrt(differ + 1 - more**2 / (n + 2)) / (n + 2)
    interval = Interval(more / n, max(centre - half, -1.0), min(centre + half, 1.0))
    return Paired(n, only_first, only_second, interval, mcnemar(only_first, only_second))


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p value of McNemar's exact test: a fair coin, tossed for each image on which two models differ.

    Source: McNemar, Psychometrika 12, 1947; the exact form is the binomial test.

    Args:
        only_first: images that only the first model recognises.
        only_second: images that only the second model recognises.
    """
    n = only_first + only_second
    term = tail = 1  # binomial coefficients, as whole numbers
    for k in range(min(only_first, only_second)):
        term = term * (n - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / 2**n)


def holm(found: Sequence[Paired]) -> list[Paired]:
    """Adjusts the p values of several comparisons: any false difference is then as rare as for a single one.

    Source: Holm, Scandinavian Journal of Statistics 6, 1979.

    Args:
        found: the comparisons.
    """
    adjusted, largest = list(found), 0.0
    for rank, at in enumerate(sorted(range(len(found)), key=lambda index: found[index].p)):
        largest = max(largest, min(1.0, found[at].p * (len(found) - rank)))
        adjusted[at] = replace(found[at], adjusted=largest)
    return adjusted
