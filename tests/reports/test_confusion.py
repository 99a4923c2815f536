"""Confused classes: counts, pairs, and the order by clustering."""

import numpy as np
from sklearn.metrics import confusion_matrix

from tests.reports.made_up import made_up, random_predictions
from timm_gcp.reports.confusion import clustered_order, confusion_cells, most_confused


def test_cells_are_those_of_the_matrix():
    found = random_predictions(400, 12)
    cells = confusion_cells(found)
    matrix = np.zeros((12, 12), dtype=int)
    matrix[cells.true, cells.predicted] = cells.count
    np.testing.assert_array_equal(matrix, confusion_matrix(found.labels, found.predicted, labels=range(12)))
    assert (cells.count > 0).all()


def test_pairs_count_both_directions():
    #                     0→1 twice, 1→0 three times, 2→0 four times
    found = made_up([0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], [1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0])
    first, second = most_confused(confusion_cells(found), 5)
    assert (first.first, first.second, first.forth, first.back, first.count) == (1, 0, 3, 2, 5)
    assert (second.first, second.second, second.forth, second.back) == (2, 0, 4, 0)
    assert len(most_confused(confusion_cells(found), 1)) == 1
    assert most_confused(confusion_cells(made_up([0, 1], [0, 1])), 5) == []


def test_order_puts_groups_of_confused_classes_together():
    """Twelve classes in three groups; images are taken for classes of the group, which is the label modulo 3."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), 60)
    predicted = np.where(rng.random(720) < 0.4, labels, labels % 3 + 3 * rng.integers(0, 4, 720))
    order = clustered_order(confusion_cells(made_up(labels, predicted)), np.arange(12))
    assert sorted(order) == list(range(12))
    groups = order % 3
    assert (np.diff(groups) != 0).sum() == 2


def test_order_of_few_classes_stays():
    found = confusion_cells(made_up([0, 1], [1, 0]))
    np.testing.assert_array_equal(clustered_order(found, np.array([0, 1])), [0, 1])
