"""Accuracy, balanced accuracy and F1 of predictions, with confidence intervals, over all classes and for each.

The intervals of shares are Wilson's (J. Am. Stat. Assoc. 22, 1927). Those of averages over classes are by the delta
method: balanced accuracy and macro F1 are functions of the shares of the images in the cells of the confusion matrix,
homogeneous of degree 0, so the gradient of the function at an image's cell has mean zero over the images, and the root
of its mean square over √n is the standard error (for F1: Takahashi et al., Applied Intelligence 52, 2022). So is the
mean average precision of multi-label predictions a function of the shares of the images. Where every image has the same
gradient, as with predictions that are all right, the method gives no width, and Wilson's interval of an equal share is
taken.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ..predictions import TOP, Predictions
from ..tasks.average_precision import average_precision_gradient
from ..tasks.multi_label_predictions import MultiLabelPredictions

__all__ = [
    "LEVEL",
    "ClassCounts",
    "Interval",
    "Metrics",
    "class_counts",
    "mean_average_precision",
    "metrics_of",
    "wilson",
]

LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
_SINGLE = 2 / 9
"""Variance of the recall of a class with one image: that of Laplace's estimate p = (right + 1) / (1 + 2), p (1 − p)."""


@dataclass(frozen=True)
class Interval:
    """A share with its confidence interval at `LEVEL`; all from 0 to 1.

    Attributes:
        value: the share; nan where it is not defined.
        low, high: ends of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassCounts:
    """Counts of each class that has an image or is predicted, K' of them.

    Attributes:
        labels: the classes, ascending, ``[K']``.
        images: images of the class, ``[K']``.
        predicted: images for which the class is predicted, ``[K']``.
        right: images of the class that are recognised, ``[K']``.
    """

    labels: np.ndarray
    images: np.ndarray
    predicted: np.ndarray
    right: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """Share of the predictions that are right; nan where the class is never predicted."""
        return _ratio(self.right, self.predicted)

    @property
    def recall(self) -> np.ndarray:
        """Share of the images that are recognised; nan where there are none."""
        return _ratio(self.right, self.images)

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall, 2·right / (images + predicted)."""
        return _ratio(2 * self.right, self.images + self.predicted)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


@dataclass(frozen=True)
class Metrics:
    """Quality of predictions.

    Attributes:
        top1, top5: share of the images whose class is the most probable one, one of the five most probable ones.
        balanced_accuracy: mean of the classes' recall, over the classes that have images.
        macro_f1: mean of the classes' F1, over the classes that have images or are predicted.
        loss: mean cross-entropy.
        images: their number.
        classes: number of classes that have images.
    """

    top1: Interval
    top5: Interval
    balanced_accuracy: Interval
    macro_f1: Interval
    loss: float
    images: int
    classes: int


def class_counts(predictions: Predictions) -> ClassCounts:
    """Counts images, predictions and hits of each class."""
    size = len(predictions.class_names)
    images, predicted, right = (
        np.bincount(each, minlength=size)
        for each in (predictions.labels, predictions.predicted, predictions.labels[predictions.right])
    )
    labels = np.flatnonzero(images + predicted)
    return ClassCounts(labels, images[labels], predicted[labels], right[labels])


def metrics_of(predictions: Predictions) -> Metrics:
    """The metrics of predictions of at least one image."""
    counts, n = class_counts(predictions), len(predictions)
    return Metrics(
        top1=wilson(int(predictions.right.sum()), n),
        top5=wilson(int(((predictions.rank > 0) & (predictions.rank <= TOP)).sum()), n),
        balanced_accuracy=_balanced_accuracy(predictions, counts),
        macro_f1=_macro_f1(predictions, counts),
        loss=float(predictions.loss.mean()),
        images=n,
        classes=int((counts.images > 0).sum()),
    )


def wilson(right: float, n: int) -> Interval:
    """Wilson's score interval of a share.

    Args:
        right: how many of the images count.
        n: number of images; without any, nothing is known.
    """
    if not n:
        return Interval(math.nan, 0.0, 1.0)
    share, square = right / n, Z * Z / n
    centre = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(share * (1 - share) / n + square / (4 * n))
    return Interval(share, max(min(centre - half, share), 0.0), min(max(centre + half, share), 1.0))  # rounding


def _balanced_accuracy(predictions: Predictions, counts: ClassCounts) -> Interval:
    """(1/K) Σ_k R_k; gradient at an image of class i: ([right] − R_i) / (K r_i), r_i the share of the class.

    The recall of a class with one image is 0 or 1, so its gradient is zero. Its variance is taken to be `_SINGLE`.
    """
    present = counts.images > 0
    recall, share = counts.recall, counts.images / len(predictions)
    own = np.searchsorted(counts.labels, predictions.labels)
    gradient = (predictions.right - recall[own]) / (present.sum() * share[own])
    single = int((counts.images == 1).sum())
    return _by_delta(float(recall[present].mean()), gradient, single * _SINGLE / int(present.sum()) ** 2)


def _macro_f1(predictions: Predictions, counts: ClassCounts) -> Interval:
    """(1/K) Σ_k F_k; gradient at an image of class i that is taken for j: (2 [i = j] − F_i)/(K d_i) − F_j/(K d_j).

    d_k is the share of the images of the class plus that of the predictions of it. A class with one image changes by
    F_k between right and wrong, with the variance that it has in `_balanced_accuracy`.
    """
    f1, share = counts.f1, (counts.images + counts.predicted) / len(predictions)
    own, guess = (np.searchsorted(counts.labels, each) for each in (predictions.labels, predictions.predicted))
    gradient = (2 * predictions.right - f1[own]) / share[own] - f1[guess] / share[guess]
    single = counts.images == 1
    change = 2 / (1 + counts.predicted + 1 - counts.right)[single]  # F_k if its image is right; it is 0 otherwise
    return _by_delta(float(f1.mean()), gradient / len(f1), _SINGLE * float(np.square(change).sum()) / len(f1) ** 2)


def mean_average_precision(predictions: MultiLabelPredictions) -> Interval:
    """The mean over the classes that an image has, of which there is at least one."""
    value = float(np.nanmean(predictions.average_precisions))
    return _by_delta(value, average_precision_gradient(predictions.targets, predictions.logits))


def _by_delta(value: float, gradient: np.ndarray, more: float = 0.0) -> Interval:
    """The interval of a function of the shares.

    Args:
        value: of the function.
        gradient: at each image.
        more: variance that the gradient does not show.
    """
    variance = float(np.square(gradient).mean()) / len(gradient) + more
    if variance < 1e-24:  # zero but for rounding
        return wilson(value * len(gradient), len(gradient))
    half = Z * math.sqrt(variance)
    return Interval(value, max(value - half, 0.0), min(value + half, 1.0))
