"""Fits the heads of a probe to features and compares their accuracy."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import GCPError
from ..predictions import PredictionRecorder
from .classifiers import Fit, alone, fit_logistic, fit_ridge, float64_device, nearest_neighbours, temperature_of
from .directions import Directions
from .features import FeatureSet
from .heads import FittedHead, Head, Kernel, kernel_of, linear_layer, scores_of
from .moment import MomentHead, fit_moment
from .options import MomentSettings
from .parts import CPU, MEAN, TOKEN, CovariancePart, FirstOrderPart, Part, first_order_parts

__all__ = ["FIRST_WEIGHT", "Fits", "Gain", "Result", "covariance_head"]

FIRST_WEIGHT = 0.3
"""Weight of the first-order part beside the triangle, both of mean squared length one."""

MOMENT = "Moment Probing"
"""In the title of its head."""


@dataclass(frozen=True)
class Result:
    """Accuracy of a head.

    Attributes:
        head: its title.
        features: their number.
        left_out: top-1 accuracy on the training images, each left out in turn, per cent; None where it is not exact,
            and where no class has two images.
        validation: top-1 accuracy on the evaluation split, per cent; None without one.
        strength: of the ridge, or scikit-learn's C.
        seconds: of fitting, once the features are there.
    """

    head: str
    features: int
    left_out: float | None
    validation: float | None
    strength: float | None
    seconds: float

    @property
    def accuracy(self) -> float | None:
        """Validation accuracy, or that of leave-one-out without an evaluation split; per cent; None without either."""
        return self.validation if self.validation is not None else self.left_out


@dataclass(frozen=True)
class Gain:
    """How much more accurate one head is than another on the same images.

    Attributes:
        head: title of the head with covariance: that of the probe.
        baseline: title of the best first-order head.
        images: their number.
        only_head: images that only the first head recognises.
        only_baseline: images that only the second one recognises.
    """

    head: str
    baseline: str
    images: int
    only_head: int
    only_baseline: int

    @property
    def points(self) -> float:
        """Difference of the accuracies in points."""
        return 100 * (self.only_head - self.only_baseline) / self.images

    @property
    def error(self) -> float:
        """Standard error of `points`."""
        share = (self.only_head + self.only_baseline) / self.images
        return 100 * math.sqrt(max(share - (self.points / 100) ** 2, 0.0) / self.images)


def _title(first_order: str | None, second: str) -> str:
    """The title of a head: its first-order vectors and its second-order part."""
    return " and ".join(filter(None, [", ".join(part.title for part in first_order_parts(first_order)), second]))


def covariance_head(covariance: CovariancePart, first_order: str | None) -> Head:
    """The output of a covariance pool, with a first-order vector beside it.

    Args:
        covariance: the pool.
        first_order: 'mean', 'class', 'mean+class' or None.
    """
    parts = first_order_parts(first_order, covariance.normalize_parts)
    title = _title(first_order, f"{covariance.method} of the covariance")
    return Head(title, (*parts, covariance), (*(FIRST_WEIGHT for _ in parts), 1.0))


class Fits:
    """Fits heads to features and keeps their results.

    Args:
        train: features of the training images.
        evaluation: features that are evaluated, or None.
        classes: number of classes.
        classifier: 'ridge' or 'logistic'.
        say: takes lines for the user.
        device: where pooling and regression run; other devices than the CPU and CUDA lack float64, and the CPU takes
            their place.

    Raises:
        GCPError: all training images are of one class.
    """

    def __init__(
        self,
        train: FeatureSet,
        evaluation: FeatureSet | None,
        classes: int,
        classifier: str,
        say: Callable[[str], None],
        device: torch.device = CPU,
    ) -> None:
        self.device = float64_device(device)
        self.train, self.evaluation, self.classes, self.say = train, evaluation, classes, say
        self.make = fit_ridge if classifier == "ridge" else fit_logistic
        self.labels = train.labels()
        self.kernels: dict[Part, Kernel] = {}
        self.results: list[Result] = []
        self.right: dict[str, Tensor] = {}
        self.right_in_validation: dict[str, Tensor] = {}
        self._scores: tuple[Tensor | None, Tensor | None] = None, None  # of the first head: left out, validation
        self._factor = 1.0  # by which they become logits
        present = len(self.labels.unique())
        if present < 2:
            raise GCPError("A probe needs training images of two classes or more, and all of these are of one class.")
        missing = classes - present
        if missing:
            say(f"{missing} of {classes} classes have no training image.")
        single = int(alone(self.labels).sum())
        self.none_can_be_left_out = single == len(self.labels)
        if self.none_can_be_left_out:
            say("No class has two training images, so there is no leave-one-out, and probabilities are not calibrated.")
        elif single:
            say(f"{single} training images are the only ones of their class, so they are wrong when they are left out.")

    def covariance(self, directions: Directions, part: CovariancePart, first_order: str | None) -> FittedHead:
        """Fits a classifier to the output of a covariance pool and a first-order vector beside it.

        Args:
            directions: along which the features are.
            part: the pool.
            first_order: 'mean', 'class', 'mean+class' or None.

        Returns:
            The head; the scores of ridge regression are scaled to be logits.
        """
        fit, weights, bias = self.fit(covariance_head(part, first_order))
        if self.make is fit_ridge:
            factor = temperature_of(fit.left_out, self.labels)
            if len(self.results) == 1:
                self._factor = factor
            weights, bias = weights * factor, bias * factor
        return FittedHead(directions, part.method, first_order, weights, bias)

    def moment(
        self, directions: Directions, first_order: str | None, settings: MomentSettings, device: torch.device
    ) -> MomentHead:
        """Trains Moment Probing with a first-order vector beside it. It has no leave-one-out.

        Args:
            directions: along which the features are.
            first_order: 'mean', 'class', 'mean+class' or None.
            settings: of the training.
            device: where it runs.
        """
        began = time.monotonic()
        head, scores = fit_moment(
            self.train, self.evaluation, directions, self.classes, first_order, settings, device, self.say
        )
        self._add(_title(first_order, MOMENT), head.weights.shape[1], None, scores, None, began)
        return head

    def fit(self, head: Head) -> tuple[Fit, Tensor, Tensor]:
        """Fits a linear classifier to a head.

        Returns:
            The fit, and its weights ``[classes, D]`` and bias ``[classes]``.
        """
        began = time.monotonic()
        for part in head.parts:
            if part not in self.kernels:
                self.kernels[part] = Kernel(self.train, part, self.device)
        kernel = kernel_of(head, self.kernels)
        fit = self.make(kernel, self.labels, self.classes, self.train.views)
        weights, bias = linear_layer(head, self.kernels, fit)
        validation = None
        if self.evaluation is not None:
            validation = scores_of(self.evaluation, head, weights, bias, self.device)
        self._add(head.title, weights.shape[1], fit.left_out, validation, fit.strength, began)
        return fit, weights, bias

    def neighbours(self, part: FirstOrderPart) -> None:
        """Evaluates the nearest neighbours in a first-order vector."""
        began = time.monotonic()
        features = self.train.first(part.name).view(self.train.images, self.train.views, -1).mean(1)
        left_out = None if self.none_can_be_left_out else nearest_neighbours(features, self.labels, self.classes)
        validation = None
        if self.evaluation is not None:
            new = self.evaluation.first(part.name)
            validation = nearest_neighbours(features, self.labels, self.classes, new)
        self._add(f"nearest neighbours of the {part.title}", features.shape[1], left_out, validation, None, began)

    def _add(
        self,
        title: str,
        features: int,
        left_out: Tensor | None,
        validation: Tensor | None,
        strength: float | None,
        began: float,
    ) -> None:
        if not self.results:
            self._scores = left_out, validation
        top1 = None
        if left_out is not None:
            self.right[title] = (left_out.argmax(1) == self.labels).double()
            top1 = 100 * float(self.right[title].mean())
        accuracy = None
        if validation is not None and self.evaluation is not None:
            self.right_in_validation[title] = (validation.argmax(1) == self.evaluation.labels()).double().cpu()
            accuracy = 100 * float(self.right_in_validation[title].mean())
        seconds = round(time.monotonic() - began, 1)
        self.results.append(Result(title, features, top1, accuracy, strength, seconds))
        shown = [
            f"{what} {value:.2f}" for what, value in (("left out", top1), ("validation", accuracy)) if value is not None
        ]
        self.say(f"{title}: {', '.join([*shown, f'{seconds:.1f} s'])}")

    def recorded(self) -> PredictionRecorder | None:
        """Predictions of the first head: of the evaluation split, else of training images, each left out in turn.

        Returns:
            None where there is neither.
        """
        left_out, validation = self._scores
        recorder = PredictionRecorder()
        if validation is not None and self.evaluation is not None:
            recorder.add(validation.cpu() * self._factor, self.evaluation.labels())
        elif left_out is not None:
            recorder.add(left_out.cpu() * self._factor, self.labels)
        else:
            return None
        return recorder

    def gain(self) -> Gain | None:
        """The head of the probe against the best first-order one, in leave-one-out accuracy.

        Returns:
            The difference; None where one of the two is missing. Where the head is Moment Probing, the covariance
            beside the first-order part takes its place.
        """
        return _gain(self.right)

    def validation_gain(self) -> Gain | None:
        """As `gain`, on the evaluation split."""
        return _gain({title: own for title, own in self.right_in_validation.items() if MOMENT not in title})

    def compare(self, covariance: CovariancePart, first_order: str | None) -> None:
        """Fits first-order heads, nearest neighbours and, where it was not fitted yet, the covariance alone.

        Args:
            covariance: the pool of the probe.
            first_order: what the head of the probe has beside the covariance.
        """
        vectors = [TOKEN, MEAN] if self.train.has_token else [MEAN]
        for part in vectors:
            self.fit(Head(part.title, (part,), (1.0,)))
        if len(vectors) == 2:
            self.fit(Head("mean and class token", (MEAN, TOKEN), (1.0, 1.0)))
        for part in vectors:
            self.neighbours(part)
        if first_order is not None:
            self.fit(covariance_head(covariance, None))


def _gain(right: Mapping[str, Tensor]) -> Gain | None:
    """The first head with covariance against the best one without.

    Args:
        right: title of a head → for each image 1 where the head is right, else 0; in the order of fitting.
    """
    head = next((title for title in right if "covariance" in title), None)
    others = [title for title in right if "covariance" not in title]
    if head is None or not others:
        return None
    baseline = max(others, key=lambda title: float(right[title].mean()))
    difference = right[head] - right[baseline]
    return Gain(head, baseline, len(difference), int((difference > 0).sum()), int((difference < 0).sum()))
