"""Predictions that tests make up."""

import numpy as np

from timm_gcp.predictions import Predictions


def made_up(labels, predicted, class_names=None, confidence=None, images=None, rank=None):
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    n = len(labels)
    names = class_names or [f"class {k}" for k in range(1 + int(max(labels.max(), predicted.max())))]
    confidence = np.linspace(0.3, 0.95, n) if confidence is None else np.asarray(confidence)
    rank = (labels == predicted).astype(int) if rank is None else np.asarray(rank)
    images = images or [f"{k}.jpg" for k in range(n)]
    return Predictions(images, labels, predicted, confidence, -np.log(confidence), rank, names)


def random_predictions(n, classes, seed=0, skill=0.6):
    """Labels of unequal classes, a share of which is predicted; mistakes go to the next two classes."""
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.geometric(3 / classes, n) - 1, classes - 1)
    predicted = np.where(rng.random(n) < skill, labels, (labels + rng.integers(1, 3, n)) % classes)
    return made_up(labels, predicted, [f"class {k}" for k in range(classes)], 0.2 + 0.8 * rng.random(n))
