"""Average precision and F1 of classes that an image may have or not."""

import numpy as np

__all__ = ["average_precision_gradient", "average_precisions", "f1_scores"]


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


def average_precision_gradient(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The gradient of the mean of `average_precisions` with respect to the shares of the images, 1/n each.

    Where image j counts w_j times, the average precision of a class is Σ_g (p_g / p) P_g over the distinct scores g,
    with p_g the positives at the score, p all positives, and P_g = T_g / N_g the precision among the N_g images with at
    least this score. Its derivative is ∂/∂w_j = (y_j (P_g(j) + A_g(j) − AP) − B_g(j)) / p, where y_j is whether the
    image has the class, and A and B are the sums of p_h / N_h and p_h P_h / N_h over the scores h at or below that of
    the image.

    Args:
        targets: whether the image has the class, ``[n, K]``, bool; at least one has one.
        scores: logits or probabilities, ``[n, K]``; one that is not a number counts as the lowest.

    Returns:
        ``[n]``, with mean zero: n times the derivative with respect to w.
    """
    scores = np.nan_to_num(scores, nan=np.finfo(scores.dtype).min)
    present = np.flatnonzero(targets.any(0))
    each = (_gradient_of_class(targets[:, label], scores[:, label]) for label in present)
    return len(targets) * np.sum(list(each), axis=0) / len(present)


def _gradient_of_class(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """∂AP/∂w of a class that has positives, ``[n]``."""
    order = np.argsort(-scores, kind="stable")
    new_score = np.diff(scores[order]) != 0
    last, score_of = np.flatnonzero(np.append(new_score, True)), np.cumsum(np.append(0, new_score))
    true = targets[order].cumsum()[last]
    taken, positive = last + 1, np.diff(true, prepend=0)
    precision = true / taken
    a, b = (np.cumsum((terms / taken)[::-1])[::-1] for terms in (positive, positive * precision))
    average = (positive * precision).sum() / true[-1]
    gradient = np.empty(len(targets))
    gradient[order] = (targets[order] * (precision + a - average)[score_of] - b[score_of]) / true[-1]
    return gradient


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
