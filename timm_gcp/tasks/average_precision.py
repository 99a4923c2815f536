"""Average precision and F1 of classes that an image may have or not."""

import numpy as np

__all__ = ["average_precisions", "f1_scores"]


def average_precisions(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The average precision of each class, Σₙ (Rₙ − Rₙ₋₁) Pₙ over the distinct scores in descending order.

    Pₙ and Rₙ are precision and recall where all images with at least the n-th score are taken. There is no
    interpolation, and images with the same score are taken together, as by scikit-learn, which computes it.

    Args:
        targets: whether the image has the class, ``[n, K]``, bool.
        scores: logits or probabilities, ``[n, K]``; one that is not a number counts as the lowest.

    Returns:
        ``[K]``, from 0 to 1; nan for a class without positives.
    """
    from sklearn.metrics import average_precision_score  # takes a second to load

    scores = np.nan_to_num(scores, nan=np.finfo(scores.dtype).min)
    found = np.full(targets.shape[1], np.nan)
    for label in np.flatnonzero(targets.any(0)):
        found[label] = average_precision_score(targets[:, label], scores[:, label])
    return found


def f1_scores(targets: np.ndarray, predicted: np.ndarray) -> tuple[float, np.ndarray]:
    """F1 = 2 TP / (2 TP + FP + FN), over all classes and for each.

    Args:
        targets: ``[n, K]``, bool.
        predicted: ``[n, K]``, bool.

    Returns:
        Micro F1, of the sums of the counts over the classes, and F1 of each class ``[K]``; nan where nothing is true
        or predicted.
    """
    hits, total = 2 * (targets & predicted).sum(0), targets.sum(0) + predicted.sum(0)
    each = np.divide(hits, total, out=np.full(len(total), np.nan), where=total > 0)
    return float(hits.sum() / total.sum()) if total.any() else float("nan"), each
