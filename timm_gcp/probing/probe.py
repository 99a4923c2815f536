"""Fits a probe: a classifier with covariance features on a frozen backbone, with first-order heads beside it."""

import html
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import nn

from ..data.open_dataset import download_splits, open_splits
from ..errors import GCPError
from ..methods import covariance_method
from ..models.folder import save_folder
from ..output import as_text
from ..pooling import GlobalCovariancePool
from ..predictions import PredictionRecorder, Predictions
from .backbone import Backbone
from .cache import store_features
from .directions import Directions
from .features import FeatureSet
from .fits import Fits, Gain, Result
from .fold import fold
from .heads import FittedHead
from .options import ProbeOptions
from .parts import CovariancePart

__all__ = ["Probe", "Say", "fit_head", "fit_probe", "fit_to_features"]

Say = Callable[[str], None]
"""Takes a line for the user."""


@dataclass
class Probe:
    """A fitted probe.

    Attributes:
        model: the backbone with the head of the probe, in evaluation mode; a timm model.
        head: directions and classifier.
        results: accuracy of all heads that were fitted; the first one is that of the probe.
        gain: the head of the probe against the best first-order one, in leave-one-out accuracy; None without
            ``compare``. Biased where the backbone was trained on these images.
        validation_gain: the same on the evaluation split; None without one.
        class_names: by label, or None.
        data_config: preprocessing.
        seconds: name of a phase → its time.
        train, evaluation: the data sets; None where the images came in batches.
        recorded: predictions of the evaluation split, or of training images, each left out in turn; None for neither.
    """

    model: nn.Module = field(repr=False)
    head: FittedHead = field(repr=False)
    results: list[Result]
    gain: Gain | None
    validation_gain: Gain | None
    class_names: list[str] | None
    data_config: dict[str, Any] = field(repr=False)
    seconds: dict[str, float]
    train: Any = field(default=None, repr=False)
    evaluation: Any = field(default=None, repr=False)
    recorded: PredictionRecorder | None = field(default=None, repr=False)

    def predictions(self, train_split: str = "", val_split: str = "") -> Predictions | None:
        """Predictions of the images of the evaluation split, else of the training images, each left out in turn.

        Args:
            train_split: name of the training split, for the names of the images.
            val_split: name of the evaluation split.

        Returns:
            None where there is neither: leave-one-out is exact for ridge regression only.
        """
        if self.recorded is None:
            return None
        dataset, split = (self.train, train_split) if self.evaluation is None else (self.evaluation, val_split)
        return self.recorded.predictions(dataset, split, self.class_names)

    @property
    def metrics(self) -> dict[str, float]:
        """Top-1 accuracy of the probe's head in per cent: ``top1`` on the evaluation split, and ``top1_left_out``."""
        first = self.results[0]
        metrics = {"top1": first.validation, "top1_left_out": first.left_out}
        return {name: round(value, 2) for name, value in metrics.items() if value is not None}

    def save(
        self,
        folder: str | PathLike[str],
        origin: str = "A linear classifier on frozen features, fitted by `timm_gcp.probe`.",
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes a model folder, which ``timm.create_model('local-dir:FOLDER', pretrained=True)`` loads.

        Args:
            folder: a new or empty one, or a model folder, which is replaced.
            origin: a sentence for its card.
            about: further entries of its configuration, as `timm_gcp.models.folder.save_folder` takes them.

        Raises:
            GCPError: another folder, or one that cannot be written.
        """
        save_folder(
            self.model,
            folder,
            class_names=self.class_names,
            metrics=self.metrics,
            data_config=self.data_config,
            origin=origin,
            about=about,
        )

    def __rich__(self) -> Table:
        """The table of the heads, best first; those that were not measured come last."""
        table = Table(title="Classifiers on frozen features, top-1 %")
        table.add_column("head")
        for name in ("features", "leave-one-out", "validation", "seconds"):
            table.add_column(name, justify="right")
        for each in sorted(self.results, key=lambda it: (it.accuracy is not None, it.accuracy or 0.0), reverse=True):
            shown = ("–" if value is None else f"{value:.2f}" for value in (each.left_out, each.validation))
            table.add_row(each.head, str(each.features), *shown, f"{each.seconds:.1f}")
        return table

    def __str__(self) -> str:
        """The table of the heads as text."""
        return as_text(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def fit_probe(model: nn.Module, options: ProbeOptions, folder: Path, say: Say = print) -> Probe:
    """Fits a probe to the images of a data set.

    Args:
        model: a timm classification model with its weights; it becomes the probe's, with a pool in place of its own.
        options: data, features and head.
        folder: where the features are cached.
        say: takes lines for the user.

    Raises:
        GCPError: bad input of any kind; the message names the remedy.
    """
    backbone = Backbone(model, options)
    if options.dataset_download:
        download_splits(options)
    train, evaluation = open_splits(options, backbone.data_config["input_size"][0])
    number = _number_of_classes(train)
    began = time.monotonic()
    directions, trained, evaluated = store_features(
        backbone, train, evaluation, folder, options.components, options.views
    )
    seconds = time.monotonic() - began
    found = fit_to_features(model, options, backbone, directions, trained, evaluated, number, say)
    found.train, found.evaluation, found.class_names = train, evaluation, getattr(train, "class_names", None)
    found.seconds = {"features": round(seconds, 1), **found.seconds}
    return found


def fit_to_features(
    model: nn.Module,
    options: ProbeOptions,
    backbone: Backbone,
    directions: Directions,
    train: FeatureSet,
    evaluation: FeatureSet | None,
    classes: int,
    say: Say,
) -> Probe:
    """Fits the head of a probe to features, and with ``compare`` the others.

    Args:
        model: with its weights; it becomes the probe's.
        options: of the head.
        backbone: made of the model.
        directions: along which the features are.
        train: features of the training images.
        evaluation: features that are evaluated, or None.
        classes: number of classes.
        say: takes lines for the user.

    Returns:
        The probe, without what only the caller knows: names of the classes, data sets and time of the features.
    """
    say(
        f"{train.images} training images of {classes} classes, {len(directions)} principal directions with "
        f"{100 * directions.variance:.1f} % of the variance within images."
    )
    began, first_order = time.monotonic(), backbone.first_order
    fits = Fits(train, evaluation, classes, options.classifier, say, options.torch_device)
    covariance = CovariancePart(options.method)
    head: FittedHead
    if options.head == "mp":
        head = fits.moment(directions, first_order, options.moment, options.torch_device)
        if options.compare:
            fits.covariance(directions, covariance, first_order)
    else:
        head = fits.covariance(directions, covariance, first_order)
    if options.compare:
        fits.compare(covariance, first_order)
    return Probe(
        model=fold(model, head),
        head=head,
        results=fits.results,
        gain=fits.gain() if options.compare else None,
        validation_gain=fits.validation_gain() if options.compare else None,
        class_names=None,
        data_config=backbone.data_config,
        seconds={"classifiers": round(time.monotonic() - began, 1)},
        recorded=fits.recorded(),
    )


def fit_head(
    model: nn.Module, train: Any, options: ProbeOptions, folder: Path, say: Say = print
) -> tuple[FittedHead, Result]:
    """Fits the head of a model that has a covariance pool already, with ridge regression.

    Args:
        model: grafted, with a linear reduction or none; it is not changed.
        train: the training images, in timm's form.
        options: preprocessing and loading.
        folder: where the features are cached.
        say: takes lines for the user.

    Returns:
        The head for `timm_gcp.probing.fold.set_head`, and its accuracy.

    Raises:
        GCPError: as `fit_probe`, another reduction, or a method that is no function of the covariance.
    """
    network: Any = model
    pool: GlobalCovariancePool = network.global_pool
    if pool.options.reduction != "linear":
        raise GCPError(
            f"A probe's head has a linear reduction, and the model has one of kind '{pool.options.reduction}'; give "
            "`reduction=linear`."
        )
    covariance_method(pool.method)
    part = CovariancePart(
        pool.method,
        tuple(pool.method_args.items()),
        pool.options.groups,
        pool.options.count_sketch,
        pool.options.normalize_parts,
    )
    backbone = Backbone(model, options)
    reduced = not isinstance(pool.reduce, nn.Identity)
    directions, features, _ = store_features(backbone, train, None, folder, pool.channels, rotate=reduced)
    fits = Fits(features, None, network.num_classes, "ridge", say, options.torch_device)
    return fits.covariance(directions, part, pool.options.first_order), fits.results[0]


def _number_of_classes(train: Any) -> int:
    number = getattr(train, "num_classes", None)
    if number is None or number < 2:
        raise GCPError(f"A probe needs images of two classes or more, and there is {number or 'no'} class.")
    return int(number)
