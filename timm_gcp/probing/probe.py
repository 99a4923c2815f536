"""Fits a classifier to the frozen features of a backbone: covariance heads beside first-order ones."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..data import check_apart, divide, split_to_divide
from ..data.open_dataset import open_dataset
from ..data.preprocessing import preprocessing
from ..errors import GCPError
from ..files import save_atomically
from ..output import BAR
from .backbone import Backbone
from .cache import Cache, digest_of_images, digest_of_weights, map_batches, scale_of, write_cache
from .classifiers import Fit, fit_logistic, fit_ridge, nearest_neighbours, temperature_of
from .directions import principal_directions, spectrum, within_image_covariance
from .heads import Head, Kernel, Part, kernel_of, linear_layer, scores_of
from .options import ProbeOptions

__all__ = ["Probe", "Result", "fit_probe"]

_SUBSET = 1000
"""Training images, evenly spread, in which the principal directions are found."""
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
        directions: principal directions, ``[R, C]``.
        variance: share of the within-image variance along them.
        method: of the covariance's root.
        first_order: 'mean', 'class' or None.
        weights, bias: the linear layer on the first-order vector and the triangle: logits.
        class_names: by label, or None.
        data_config: preprocessing.
        results: of all heads that were fitted; the first one is that of the probe.
        gain: covariance over the best first-order head, in points of leave-one-out accuracy, and the standard error of
            that difference; None without ``compare``.
        images: training and evaluation images.
        seconds: name of a phase → its time.
    """

    directions: Tensor
    variance: float
    method: str
    first_order: str | None
    weights: Tensor
    bias: Tensor
    class_names: list[str] | None
    data_config: dict[str, Any]
    results: list[Result]
    gain: tuple[float, float] | None
    images: tuple[int, int]
    seconds: dict[str, float] = field(default_factory=dict)


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
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    data_config = preprocessing(options, model, use_test_size=True)
    weights_digest = digest_of_weights(model)
    backbone = Backbone(model, device)
    first_order = _first_order(options, backbone)
    train, evaluation = _data(options, data_config["input_size"][0])
    number = _number_of_classes(train)
    seconds: dict[str, float] = {}
    began = time.monotonic()
    key = {
        "weights": weights_digest,
        "data_config": {name: str(value) for name, value in sorted(data_config.items())},
        "orient": not options.ignore_exif_orientation,
    }
    directions, variance, scale = _directions(backbone, train, data_config, options, folder, key)
    key["directions"] = [list(directions.shape), scale, _digest(directions.numpy().tobytes())]
    caches = []
    for dataset, views in ((train, options.views), (evaluation, 1)):
        if dataset is not None:
            own = {**key, "images": digest_of_images(dataset), "views": views, "batch_size": options.batch_size}
            viewed = _with_views(options, views)
            caches.append(write_cache(folder, own, backbone, dataset, directions, scale, data_config, viewed))
    seconds["features"] = round(time.monotonic() - began, 1)
    say(
        f"{len(train)} training images of {number} classes, {len(directions)} principal directions with "
        f"{100 * variance:.1f} % of the variance within images."
    )
    began = time.monotonic()
    fitted = _Fits(caches[0], caches[1] if len(caches) > 1 else None, number, options, say)
    head = _covariance_head(options.method, first_order)
    fit = fitted.fit(head)
    if options.compare:
        _compare(fitted, options, backbone)
    weights, bias = linear_layer(head, fitted.kernels, fit)
    if fit.left_out is not None:
        factor = temperature_of(fit.left_out, fitted.labels)
        weights, bias = weights * factor, bias * factor
    seconds["classifiers"] = round(time.monotonic() - began, 1)
    return Probe(
        directions=directions,
        variance=variance,
        method=options.method,
        first_order=first_order,
        weights=weights,
        bias=bias,
        class_names=getattr(train, "class_names", None),
        data_config=data_config,
        results=fitted.results,
        gain=fitted.gain() if options.compare else None,
        images=(len(train), len(evaluation) if evaluation is not None else 0),
        seconds=seconds,
    )


def _first_order(options: ProbeOptions, backbone: Backbone) -> str | None:
    if options.first_order == "auto":
        return "class" if backbone.has_token else "mean"
    if options.first_order == "class" and not backbone.has_token:
        raise GCPError("`first_order=class` needs a class token, and this backbone has none; use mean.")
    return None if options.first_order == "none" else options.first_order


def _data(options: ProbeOptions, channels: int) -> tuple[Any, Any]:
    """The images to fit and to evaluate."""
    divided = split_to_divide(
        options.dataset, options.data_dir, options.train_split, options.val_split, options.val_fraction
    )
    if divided is not None:
        whole = open_dataset(options, divided, channels, is_training=True)
        return divide(whole, options.val_fraction, options.val_seed)
    train = open_dataset(options, options.train_split, channels, is_training=True)
    evaluation = open_dataset(options, options.val_split, channels) if options.val_split else None
    if evaluation is not None:
        check_apart(train, evaluation, options.train_split, options.val_split)
        names, others = (getattr(each, "class_names", None) for each in (train, evaluation))
        if names and others and list(names) != list(others):
            raise GCPError(
                f"Splits '{options.train_split}' and '{options.val_split}' have different classes; make them agree, or "
                "give a `class_map`."
            )
    return train, evaluation


def _number_of_classes(train: Any) -> int:
    number = getattr(train, "num_classes", None)
    if number is None or number < 2:
        raise GCPError(f"A probe needs images of two classes or more, and there is {number or 'no'} class.")
    return int(number)


def _with_views(options: ProbeOptions, views: int) -> ProbeOptions:
    return ProbeOptions(**{**vars(options), "views": views})


def _directions(
    backbone: Backbone,
    train: Any,
    data_config: Mapping[str, Any],
    options: ProbeOptions,
    folder: Path,
    key: Mapping[str, Any],
) -> tuple[Tensor, float, float]:
    """The principal directions, their share of the variance and the scale of stored maps; kept in the folder."""
    wanted = {**key, "images": digest_of_images(train), "batch_size": options.batch_size}
    file = folder / f"directions-{_digest(json.dumps(wanted, sort_keys=True).encode())[:16]}.npz"
    if not file.is_file():
        indices = np.unique(np.linspace(0, len(train) - 1, _SUBSET).astype(int)).tolist()
        largest = 0.0

        def maps() -> Any:
            nonlocal largest
            batches = map_batches(backbone, train, indices, data_config, options, options.batch_size)
            total = math.ceil(len(indices) / options.batch_size)
            for features, _ in tqdm(batches, "directions", total, unit="batch", disable=None, bar_format=BAR):
                x = features[0].maps.cpu()
                if not x.isfinite().all():
                    raise GCPError("The features of some images are not finite; check the weights.")
                norms = (x - x.mean(2, keepdim=True)).square().sum(1).sqrt()
                largest = max(largest, float(norms.max()))
                yield x

        values, vectors = spectrum(within_image_covariance(maps()))
        folder.mkdir(parents=True, exist_ok=True)
        # The eigenvectors, not the covariance: their last digits depend on the number of threads.
        content = {"values": values.numpy(), "vectors": vectors.numpy(), "largest": np.float64(largest)}
        save_atomically(file, lambda out: np.savez(out, **content))
    with np.load(file) as stored:
        values, vectors = torch.from_numpy(stored["values"]), torch.from_numpy(stored["vectors"])
        largest = float(stored["largest"])
    directions, variance = principal_directions(values, vectors, options.components)
    return directions, variance, scale_of(largest)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _covariance_head(method: str, first_order: str | None) -> Head:
    names = {"mean": "mean", "class": "token"}
    if first_order is None:
        return Head(f"{method} of the covariance", (Part(method),), (1.0,))
    title = f"{'mean' if first_order == 'mean' else 'class token'} and {method} of the covariance"
    return Head(title, (Part(names[first_order]), Part(method)), (_FIRST_WEIGHT, 1.0))


class _Fits:
    """Fits heads to cached features and keeps their results."""

    def __init__(
        self, train: Cache, evaluation: Cache | None, classes: int, options: ProbeOptions, say: Callable[[str], None]
    ) -> None:
        self.train, self.evaluation, self.classes, self.options, self.say = train, evaluation, classes, options, say
        self.labels = train.labels()
        self.kernels: dict[Part, Kernel] = {}
        self.results: list[Result] = []
        self.right: dict[str, Tensor] = {}
        missing = classes - len(self.labels.unique())
        if missing:
            say(f"{missing} of {classes} classes have no training image.")

    def fit(self, head: Head) -> Fit:
        """Fits a linear classifier to a head."""
        began = time.monotonic()
        for part in head.parts:
            if part not in self.kernels:
                self.kernels[part] = Kernel(self.train, part)
        kernel = kernel_of(head, self.kernels)
        make = fit_ridge if self.options.classifier == "ridge" else fit_logistic
        fit = make(kernel, self.labels, self.classes, self.train.views)
        weights, bias = linear_layer(head, self.kernels, fit)
        validation = None
        if self.evaluation is not None:
            validation = scores_of(self.evaluation, head, weights, bias)
        self._add(head.title, weights.shape[1], fit.left_out, validation, fit.strength, began)
        return fit

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


def _compare(fitted: _Fits, options: ProbeOptions, backbone: Backbone) -> None:
    """Fits the other heads."""
    vectors: Sequence[tuple[str, str]] = [("mean", "mean")]
    if backbone.has_token:
        vectors = [("token", "class token"), *vectors]
    for name, title in vectors:
        fitted.fit(Head(title, (Part(name),), (1.0,)))
    if len(vectors) == 2:
        fitted.fit(Head("class token and mean", (Part("token"), Part("mean")), (1.0, 1.0)))
    for name, title in vectors:
        fitted.neighbours(name, f"nearest neighbours of the {title}")
    if options.first_order != "none":
        fitted.fit(_covariance_head(options.method, None))
