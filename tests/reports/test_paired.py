"""Paired comparisons: McNemar's exact test, Holm's adjustment, which images are the same."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from tests.reports.made_up import made_up
from timm_gcp.reports.paired import aligned, compare_paired, holm, mcnemar


@pytest.mark.parametrize("counts", [(0, 0), (0, 1), (5, 5), (3, 14), (120, 80), (1, 900), (26000, 25000)])
def test_p_value_is_that_of_the_binomial_test(counts):
    expected = stats.binomtest(min(counts), sum(counts)).pvalue if sum(counts) else 1.0
    assert mcnemar(*counts) == pytest.approx(expected, rel=1e-6)
    assert mcnemar(*counts[::-1]) == mcnemar(*counts)


def test_difference():
    labels = np.zeros(100, dtype=int)
    first, second = (made_up(labels, (np.arange(100) < wrong).astype(int), ["a", "b"]) for wrong in (20, 32))
    found = compare_paired(first, second)
    assert (found.images, found.only_first, found.only_second) == (100, 12, 0)
    assert found.difference.value == pytest.approx(0.12)
    assert found.difference.low < 0.12 < found.difference.high
    assert found.p == pytest.approx(2 / 2**12)
    reverse = compare_paired(second, first).difference
    assert (reverse.low, reverse.high) == pytest.approx((-found.difference.high, -found.difference.low))


def test_interval_covers_the_difference():
    rng, covered = np.random.default_rng(0), 0
    cells = np.array([0.55, 0.15, 0.1, 0.2])  # both right, first only, second only, none
    for _ in range(400):
        kind = rng.choice(4, 80, p=cells)
        labels = np.zeros(80, dtype=int)
        first = made_up(labels, np.isin(kind, (2, 3)).astype(int), ["a", "b"])
        second = made_up(labels, np.isin(kind, (1, 3)).astype(int), ["a", "b"])
        interval = compare_paired(first, second).difference
        covered += interval.low <= 0.05 <= interval.high
    assert 0.92 < covered / 400 < 0.99


def test_images_are_matched_by_name_and_class():
    first = made_up([0, 1, 2], [0, 1, 1], ["x", "y", "z"], images=["a", "b", "c"])
    # The same images in another order, by a model that numbers the classes otherwise.
    second = made_up([1, 0, 2], [1, 2, 2], ["y", "z", "x"], images=["c", "b", "a"])
    np.testing.assert_array_equal(aligned(first, second), [2, 1, 0])
    found = compare_paired(first, second)
    assert (found.only_first, found.only_second) == (1, 1)
    assert aligned(first, dataclasses.replace(second, images=["c", "b", "d"])) is None
    assert aligned(first, dataclasses.replace(second, class_names=["x", "y", "z"])) is None
    assert compare_paired(first, made_up([0, 1], [0, 1], images=["a", "b"])) is None


def test_adjustment_is_holms():
    found = [dataclasses.replace(compare_paired(*[made_up([0], [0])] * 2), p=p) for p in (0.04, 0.01, 0.03, 0.5)]
    assert [each.adjusted for each in holm(found)] == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert [each.p for each in holm(found)] == [0.04, 0.01, 0.03, 0.5]
    assert holm([]) == []
