"""Labels that are likely to be wrong: images that a classifier fitted to all others puts in another class."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..probing.classifiers import alone, temperature_of
from ..probing.features import FeatureSet
from ..probing.fits import Fits, covariance_head
from ..probing.parts import CovariancePart

__all__ = ["LabelError", "label_errors"]


@dataclass(frozen=True)
class LabelError:
    """An image whose label is doubtful.

    Attributes:
        image: its index.
        label: as given.
        suggested: the class that the classifier prefers.
        probability: of the label, by the classifier that has not seen the image.
        suggested_probability: of the suggested class.
    """

    image: int
    label: int
    suggested: int
    probability: float
    suggested_probability: float


def label_errors(features: FeatureSet, classes: int, method: str, first_order: str | None) -> list[LabelError]:
    """The images that ridge regression on all other images puts in another class, most certain first.

    The scores are those of the exact leave-one-out of a probe (`timm_gcp.probing.classifiers.fit_ridge`), made into
    probabilities by the temperature that suits them best. A wrong label makes its own image doubtful, and correct
    images as well where a class has few images or two classes look alike: the list is to be looked at. An image that
    is the only one of its class is not judged.

    Args:
        features: of the images with labels, one view of each.
        classes: number of classes.
        method: of the covariance's root.
        first_order: 'mean', 'class', 'mean+class' or None: what the classifier gets beside it.

    Raises:
        GCPError: fewer than two classes have an image.
    """
    labels = features.labels()
    fits = Fits(features, None, classes, "ridge", lambda _: None)
    fit, _, _ = fits.fit(covariance_head(CovariancePart(method), first_order))
    return [] if fit.left_out is None else _doubtful(fit.left_out, labels)


def _doubtful(left_out: Tensor, labels: Tensor) -> list[LabelError]:
    probabilities = (temperature_of(left_out, labels) * left_out).softmax(1)
    best, suggested = probabilities.max(1)
    own = probabilities.gather(1, labels[:, None]).squeeze(1)
    doubtful = ((suggested != labels) & ~alone(labels)).nonzero().squeeze(1)
    order = doubtful[torch.argsort(own[doubtful] - best[doubtful], stable=True)].tolist()
    return [LabelError(i, int(labels[i]), int(suggested[i]), float(own[i]), float(best[i])) for i in order]
