"""Which classes are taken for which: counts, the most confused pairs, and an order that puts such classes together."""

from dataclasses import dataclass

import numpy as np

from ..predictions import Predictions

__all__ = ["Cells", "ConfusedPair", "clustered_order", "confusion_cells", "most_confused"]

LARGEST = 2000
"""Most classes that are clustered: it takes the square of their number."""


@dataclass(frozen=True)
class Cells:
    """The cells of a confusion matrix that are not zero, by rows.

    Attributes:
        true, predicted: classes of the cell.
        count: its images.
    """

    true: np.ndarray
    predicted: np.ndarray
    count: np.ndarray

    @property
    def mistakes(self) -> "Cells":
        """The cells off the diagonal."""
        off = self.true != self.predicted
        return Cells(self.true[off], self.predicted[off], self.count[off])


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes that are taken for each other.

    Attributes:
        first, second: their labels; more images of the first are taken for the second than the other way round.
        forth: images of the first that are taken for the second.
        back: images of the second that are taken for the first.
    """

    first: int
    second: int
    forth: int
    back: int

    @property
    def count(self) -> int:
        """Mistakes between the two."""
        return self.forth + self.back


def confusion_cells(predictions: Predictions) -> Cells:
    """The cells of the confusion matrix that are not zero."""
    size = len(predictions.class_names)
    cells, count = np.unique(predictions.labels.astype(np.int64) * size + predictions.predicted, return_counts=True)
    return Cells(cells // size, cells % size, count)


def most_confused(cells: Cells, shown: int) -> list[ConfusedPair]:
    """The pairs of classes with the most mistakes between them, most first.

    Args:
        cells: of the confusion matrix.
        shown: how many pairs at most.
    """
    off = cells.mistakes
    forth = {(i, j): n for i, j, n in zip(off.true.tolist(), off.predicted.tolist(), off.count.tolist(), strict=True)}
    pairs = []
    for i, j in {(min(pair), max(pair)) for pair in forth}:
        there, back = forth.get((i, j), 0), forth.get((j, i), 0)
        pairs.append(ConfusedPair(i, j, there, back) if there >= back else ConfusedPair(j, i, back, there))
    return sorted(pairs, key=lambda pair: (-pair.count, pair.first, pair.second))[:shown]


def clustered_order(cells: Cells, labels: np.ndarray) -> np.ndarray:
    """An order of the classes in which those that are taken for each other are neighbours.

    It is that of the leaves of an agglomerative clustering with average linkage; the distance of two classes is one
    less the mean share of their images that are taken for the other.

    Args:
        cells: of the confusion matrix.
        labels: the classes, ascending, ``[K]``.

    Returns:
        The labels in the new order; as they came where there are fewer than three or more than `LARGEST`.
    """
    number = len(labels)
    if not 2 < number <= LARGEST:
        return labels
    from sklearn.cluster import AgglomerativeClustering

    matrix = np.zeros((number, number))
    matrix[np.searchsorted(labels, cells.true), np.searchsorted(labels, cells.predicted)] = cells.count
    matrix /= np.maximum(matrix.sum(1, keepdims=True), 1)
    distance = 1 - (matrix + matrix.T) / 2
    np.fill_diagonal(distance, 0)
    tree = AgglomerativeClustering(n_clusters=1, metric="precomputed", linkage="average").fit(distance)
    return labels[_leaves(tree.children_, number)]


def _leaves(children: np.ndarray, number: int) -> list[int]:
    """The leaves of a tree from left to right; node ``number + i`` joins the two of row i."""
    order, stack = [], [number + len(children) - 1]
    while stack:
        node = stack.pop()
        if node < number:
            order.append(node)
        else:
            left, right = sorted(children[node - number].tolist(), key=lambda child: child < number)
            stack += [right, left]
    return order
