"""Classifiers on fixed features, fitted in the dual: ridge with exact leave-one-out, logistic regression, neighbours.

All take a centred kernel K = F Fᵀ of features F ``[rows, D]``. A row is one view of an image; the views of an image lie
one after another and leave together.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import GCPError

__all__ = [
    "Fit",
    "alone",
    "centred",
    "fit_logistic",
    "fit_ridge",
    "float64_device",
    "nearest_neighbours",
    "temperature_of",
]

_GRID = torch.logspace(-5, 1, 25, dtype=torch.float64)
"""Ridge strengths to try, in units of the mean eigenvalue of the kernel."""

_FACTOR = 10.0
"""By which scores become logits where no image can be left out: scores of 1 for a class and 0 for nine others then
give a probability of 0.9996."""


@dataclass
class Fit:
    """A fitted classifier: scores of new features are ``K(new, rows) @ coefficients + intercept``.

    Attributes:
        coefficients: ``[rows, classes]`` in float64.
        intercept: ``[classes]``.
        strength: the chosen ridge strength, or the inverse one of logistic regression.
        left_out: scores of each image by a classifier that was fitted without it, ``[images, classes]``; None where
            they are not exact, and where no class has two images, since a class without images is never predicted.
    """

    coefficients: Tensor
    intercept: Tensor
    strength: float
    left_out: Tensor | None


def float64_device(device: torch.device) -> torch.device:
    """The device that classifiers are fitted on: a CUDA device, or the CPU for others, which may lack float64."""
    return device if device.type == "cuda" else torch.device("cpu")


def centred(kernel: Tensor) -> Tensor:
    """A kernel of features from which their mean is removed; float64."""
    kernel = kernel.double()
    rows = kernel.mean(1, keepdim=True)
    return kernel - rows - rows.T + kernel.mean()


def fit_ridge(kernel: Tensor, labels: Tensor, classes: int, views: int = 1) -> Fit:
    """Ridge regression onto one-hot targets, with its strength chosen by exact leave-one-out accuracy.

    With K = U E Uᵀ, M = U (E + λ)⁻¹ Uᵀ − 11ᵀ/(nλ) and targets Y, the coefficients are A = M Y, and the residuals of the
    images of a block B that is left out are M_BB⁻¹ A_B. (The constant vector is an eigenvector of K with eigenvalue
    zero. It stands for the intercept, which is not penalised, and is taken out.) Of strengths with equal accuracy the
    one with the least squared error is chosen.

    Args:
        kernel: ``[rows, rows]``, centred; the regression runs on its device.
        labels: of the images, ``[rows / views]``.
        classes: number of classes.
        views: rows of an image.

    Returns:
        The fit, on the CPU; its ``left_out`` scores are averaged over the views.

    Raises:
        GCPError: fewer than two classes have an image.
    """
    if len(labels.unique()) < 2:
        raise GCPError("A classifier needs images of two classes or more.")
    rows, labels = len(kernel), labels.to(kernel.device)
    targets = torch.nn.functional.one_hot(labels.repeat_interleave(views), classes).double()
    intercept = targets.mean(0)
    values, vectors = torch.linalg.eigh(kernel.double())
    values = values.clamp_min(0)
    projected = vectors.T @ targets
    best: tuple[float, float] | None = None
    chosen: Fit | None = None
    for strength in (_GRID * float(values.mean())).tolist():
        weights = 1 / (values + strength)
        coefficients = vectors @ (weights[:, None] * projected) - targets.mean(0) / strength
        blocks = vectors.view(-1, views, rows)
        inverse = (blocks * weights) @ blocks.mT - 1 / (rows * strength)
        residuals = torch.linalg.solve(inverse, coefficients.view(-1, views, classes))
        left_out = (targets.view(-1, views, classes) - residuals).mean(1)
        accuracy = (left_out.argmax(1) == labels).double().mean().item()
        quality = (accuracy, -residuals.square().mean().item())
        if best is None or quality > best:
            best, chosen = quality, Fit(coefficients, intercept, strength, left_out)
    assert chosen is not None
    assert chosen.left_out is not None
    left_out = None if bool(alone(labels).all()) else chosen.left_out.cpu()
    return Fit(chosen.coefficients.cpu(), chosen.intercept.cpu(), chosen.strength, left_out)


def alone(labels: Tensor) -> Tensor:
    """Whether an image is the only one of its class, for each image.

    Args:
        labels: ``[images]``.
    """
    return labels.bincount()[labels] == 1


def fit_logistic(kernel: Tensor, labels: Tensor, classes: int, views: int = 1, inverse_strength: float = 1.0) -> Fit:
    """Multinomial logistic regression, by scikit-learn on the coordinates in which the kernel is diagonal.

    The penalised solution lies in the span of the features, so fitting on the ``rows`` coordinates U√E gives the same
    classifier as fitting on all D features.

    Args:
        kernel: ``[rows, rows]``, centred.
        labels: of the images.
        classes: number of classes.
        views: rows of an image.
        inverse_strength: scikit-learn's C, for features of mean squared length one.
    """
    from sklearn.linear_model import LogisticRegression

    values, vectors = torch.linalg.eigh(kernel.double().cpu())
    scale = float(values.clamp_min(0).mean())
    kept = values > values[-1] * len(values) * torch.finfo(torch.float64).eps
    values, vectors = values[kept], vectors[:, kept]
    coordinates = vectors * (values / scale).sqrt()
    model = LogisticRegression(C=inverse_strength, max_iter=500)
    model.fit(coordinates.numpy(), labels.repeat_interleave(views).numpy())
    found = torch.as_tensor(model.coef_, dtype=torch.float64)
    start = torch.as_tensor(model.intercept_, dtype=torch.float64)
    if len(model.classes_) == 2:
        found, start = torch.cat([-found, found]) / 2, torch.cat([-start, start]) / 2
    coefficients = torch.zeros(len(kernel), classes, dtype=torch.float64)
    intercept = torch.full((classes,), float(start.min()) - 1, dtype=torch.float64)
    present = torch.as_tensor(model.classes_)
    coefficients[:, present] = vectors @ (found / (values * scale).sqrt()).T
    intercept[present] = start
    return Fit(coefficients, intercept, inverse_strength, None)


def nearest_neighbours(
    features: Tensor, labels: Tensor, classes: int, new: Tensor | None = None, neighbours: int = 20
) -> Tensor:
    """Scores by weighted votes of the nearest images in cosine similarity, as DINO evaluates (temperature 0.07).

    Args:
        features: of the labelled images, ``[images, D]``.
        labels: ``[images]``.
        classes: number of classes.
        new: features to classify; None classifies each labelled image by the others.
        neighbours: number of votes.

    Returns:
        ``[images or new images, classes]``.
    """
    reference = torch.nn.functional.normalize(features.float(), dim=1)
    query = reference if new is None else torch.nn.functional.normalize(new.float(), dim=1)
    similarity = query @ reference.T
    if new is None:
        similarity.fill_diagonal_(-torch.inf)
    near, index = similarity.topk(min(neighbours, len(labels) - (new is None)), 1)
    votes = torch.zeros(len(query), classes)
    return votes.scatter_add_(1, labels[index], ((near - 1) / 0.07).exp())


def temperature_of(scores: Tensor | None, labels: Tensor) -> float:
    """The factor that makes scores into logits: it minimises their cross-entropy, so that probabilities mean something.

    Images that are the only one of their class are not counted: without them their class is unknown.

    Args:
        scores: of images that were left out, ``[images, classes]``; None gives a usual factor.
        labels: ``[images]``.
    """
    if scores is None:
        return _FACTOR
    known = ~alone(labels)
    scores, labels = scores[known], labels[known]
    factors = torch.logspace(-1, 3, 81, dtype=torch.float64)
    losses = [torch.nn.functional.cross_entropy(factor * scores, labels).item() for factor in factors]
    return float(factors[losses.index(min(losses))])
