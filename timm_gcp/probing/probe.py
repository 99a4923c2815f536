"""Fits a classifier to the frozen features of a backbone: covariance heads beside first-order ones."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..data.open_dataset import download_splits, open_splits
from ..errors import GCPError
from .backbone import Backbone
from .cache import Cache, digest_of_images, find_directions, write_cache
from .classifiers import Fit, fit_logistic, fit_ridge, nearest_neighbours, temperature_of
from .directions import Directions
from .heads import Head, Kernel, kernel_of, linear_layer, scores_of
from .options import ProbeOptions

__all__ = ["Probe", "Result", "fit_probe"]

_FIRST_WEIGHT = 0.3
"""Weight of the first-order part beside the triangle, both of mean squared length one."""


@dataclass(frozen=True)
class Result:
    """Accuracy of a head.

    Attributes:
        head: its title.
        features: their number.
        left_out: top-1 accuracy on the training images, each left out in turn, per cent; None where it is not exact.
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


@dataclass
class Probe:
    """A fitted probe.

    Attributes:
        directions: principal directions.
        method: of the covariance's root.
        first_order: 'mean', 'class' or None.
        weights, bias: the linear layer on the first-order vector and the triangle: logits.
        class_names: by label, or None.
        data_config: preprocessing.
        results: of all heads that were fitted; the first one is that of the probe.
        gain: covariance over the best first-order head, in points of leave-one-out accuracy, and the standard error of
            that difference; None without ``compare``.
        train, evaluation: the data sets; the second may be None.
        seconds: name of a phase → its time.
    """

    directions: Directions
    method: str
    first_order: str | None
    weights: Tensor
    bias: Tensor
    class_names: list[str] | None
    data_config: dict[str, Any]
    results: list[Result]
    gain: tuple[float, float] | None
    train: Any
    evaluation: Any
    seconds: dict[str, float]


def fit_probe(model: nn.Module, options: ProbeOptions, folder: Path, say: Callable[[str], None] = print) -> Probe:
    """Fits a probe.

    Args:
        model: a plain timm classification model with its weights; its head is taken away.
        options: data, features and classifier.
        folder: where the features are cached.
        say: takes lines for the user.

    Raises:
        GCPError: bad input of any kind; the message names the remedy.
    """
    backbone = Backbone(model, options)
    first_order = _first_order(options, backbone)
    if options.dataset_download:
        download_splits(options)
    train, evaluation = open_splits(options, backbone.data_config["input_size"][0])
    number = _number_of_classes(train)
    began = time.monotonic()
    images = digest_of_images(train)
    directions = find_directions(backbone, train, images, folder, options.components)
    trained = write_cache(backbone, train, images, directions, folder, options.views)
    evaluated = None
    if evaluation is not None:
        evaluated = write_cache(backbone, evaluation, digest_of_images(evaluation), directions, folder)
    seconds = {"features": round(time.monotonic() - began, 1)}
    say(
        f"{len(train)} training images of {number} classes, {len(directions)} principal directions with "
        f"{100 * directions.variance:.1f} % of the variance within images."
    )
    began = time.monotonic()
    fits = _Fits(trained, evaluated, number, options.classifier, say)
    fit, weights, bias = fits.fit(_covariance_head(options.method, first_order))
    if fit.left_out is not None:
        factor = temperature_of(fit.left_out, fits.labels)
        weights, bias = weights * factor, bias * factor
    if options.compare:
        _compare(fits, options, backbone.has_token)
    seconds["classifiers"] = round(time.monotonic() - began, 1)
    return Probe(
        directions=directions,
        method=options.method,
        first_order=first_order,
        weights=weights,
        bias=bias,
        class_names=getattr(train, "class_names", None),
        data_config=backbone.data_config,
        results=fits.results,
        gain=fits.gain() if options.compare else None,
        train=train,
        evaluation=evaluation,
        seconds=seconds,
    )


def _first_order(options: ProbeOptions, backbone: Backbone) -> str | None:
    if options.first_order == "auto":
        return "class" if backbone.has_token else "mean"
    if options.first_order == "class" and not backbone.has_token:
        raise GCPError("`first_order=class` needs a class token, and this backbone has none; use mean.")
    return None if options.first_order == "none" else options.first_order


def _number_of_classes(train: Any) -> int:
    number = getattr(train, "num_classes", None)
    if number is None or number < 2:
        raise GCPError(f"A probe needs images of two classes or more, and there is {number or 'no'} class.")
    return int(number)


def _covariance_head(method: str, first_order: str | None) -> Head:
    names = {"mean": "mean", "class": "token"}
    if first_order is None:
        return Head(f"{method} of the covariance", (method,), (1.0,))
    title = f"{'mean' if first_order == 'mean' else 'class token'} and {method} of the covariance"
    return Head(title, (names[first_order], method), (_FIRST_WEIGHT, 1.0))


class _Fits:
    """Fits heads to cached features and keeps their results."""

    def __init__(
        self, train: Cache, evaluation: Cache | None, classes: int, classifier: str, say: Callable[[str], None]
    ) -> None:
        self.train, self.evaluation, self.classes, self.say = train, evaluation, classes, say
        self.make = fit_ridge if classifier == "ridge" else fit_logistic
        self.labels = train.labels()
        self.kernels: dict[str, Kernel] = {}
        self.results: list[Result] = []
        self.right: dict[str, Tensor] = {}
        missing = classes - len(self.labels.unique())
        if missing:
            say(f"{missing} of {classes} classes have no training image.")

    def fit(self, head: Head) -> tuple[Fit, Tensor, Tensor]:
        """Fits a linear classifier to a head.

        Returns:
            The fit, and its weights ``[classes, D]`` and bias ``[classes]``.
        """
        began = time.monotonic()
        for part in head.parts:
            if part not in self.kernels:
                self.kernels[part] = Kernel(self.train, part)
        kernel = kernel_of(head, self.kernels)
        fit = self.make(kernel, self.labels, self.classes, self.train.views)
        weights, bias = linear_layer(head, self.kernels, fit)
        validation = None
        if self.evaluation is not None:
            validation = scores_of(self.evaluation, head, weights, bias)
        self._add(head.title, weights.shape[1], fit.left_out, validation, fit.strength, began)
        return fit, weights, bias

    def neighbours(self, name: str, title: str) -> None:
        """Evaluates the nearest neighbours in a first-order vector."""
        began = time.monotonic()
        features = self.train.first(name).view(self.train.images, self.train.views, -1).mean(1)
        left_out = nearest_neighbours(features, self.labels, self.classes)
        validation = None
        if self.evaluation is not None:
            new = self.evaluation.first(name)
            validation = nearest_neighbours(features, self.labels, self.classes, new)
        self._add(title, features.shape[1], left_out, validation, None, began)

    def _add(
        self,
        title: str,
        features: int,
        left_out: Tensor | None,
        validation: Tensor | None,
        strength: float | None,
        began: float,
    ) -> None:
        top1 = None
        if left_out is not None:
            self.right[title] = (left_out.argmax(1) == self.labels).double()
            top1 = 100 * float(self.right[title].mean())
        accuracy = None
        if validation is not None and self.evaluation is not None:
            accuracy = 100 * float((validation.argmax(1) == self.evaluation.labels()).double().mean())
        seconds = round(time.monotonic() - began, 1)
        self.results.append(Result(title, features, top1, accuracy, strength, seconds))
        shown = ", ".join(
            f"{what} {value:.2f}" for what, value in (("left out", top1), ("validation", accuracy)) if value is not None
        )
        self.say(f"{title}: {shown}, {seconds:.1f} s")

    def gain(self) -> tuple[float, float] | None:
        """Covariance over the best other head, in points of leave-one-out accuracy, with its standard error."""
        covariance = [r for r in self.results if "covariance" in r.head and r.head in self.right]
        others = [r for r in self.results if "covariance" not in r.head and r.head in self.right]
        if not covariance or not others:
            return None
        best, other = (max(group, key=lambda r: r.left_out or 0.0) for group in (covariance, others))
        difference = self.right[best.head] - self.right[other.head]
        return 100 * float(difference.mean()), 100 * float(difference.std() / len(difference) ** 0.5)


def _compare(fits: _Fits, options: ProbeOptions, has_token: bool) -> None:
    """Fits the other heads."""
    vectors: Sequence[tuple[str, str]] = [("mean", "mean")]
    if has_token:
        vectors = [("token", "class token"), *vectors]
    for name, title in vectors:
        fits.fit(Head(title, (name,), (1.0,)))
    if len(vectors) == 2:
        fits.fit(Head("class token and mean", ("token", "mean"), (1.0, 1.0)))
    for name, title in vectors:
        fits.neighbours(name, f"nearest neighbours of the {title}")
    if options.first_order != "none":
        fits.fit(_covariance_head(options.method, None))
