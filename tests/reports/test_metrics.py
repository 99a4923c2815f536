"""Metrics of predictions against scikit-learn and scipy, their intervals against the bootstrap."""

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from tests.reports.made_up import made_up, random_predictions
from timm_gcp.reports.calibration import calibration_of
from timm_gcp.reports.metrics import Z, class_counts, mean_average_precision, metrics_of, wilson
from timm_gcp.tasks import MultiLabelPredictions


@pytest.mark.parametrize(("n", "classes"), [(400, 5), (900, 40), (30, 25)])
def test_metrics_are_those_of_scikit_learn(n, classes):
    found = random_predictions(n, classes)
    metrics = metrics_of(found)
    assert metrics.top1.value == pytest.approx(sk.accuracy_score(found.labels, found.predicted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of classes without images
        expected = sk.balanced_accuracy_score(found.labels, found.predicted)
    assert metrics.balanced_accuracy.value == pytest.approx(expected)
    expected = sk.f1_score(found.labels, found.predicted, average="macro", zero_division=0)
    assert metrics.macro_f1.value == pytest.approx(expected)


def test_classes_are_those_of_scikit_learn():
    found = random_predictions(300, 30)
    counts = class_counts(found)
    precision, recall, f1, images = sk.precision_recall_fscore_support(
        found.labels, found.predicted, labels=counts.labels, zero_division=np.nan
    )
    np.testing.assert_array_equal(counts.images, images)
    np.testing.assert_allclose(counts.precision, precision)
    np.testing.assert_allclose(counts.recall, recall)
    both = ~np.isnan(precision) & ~np.isnan(recall)
    np.testing.assert_allclose(counts.f1[both], f1[both])
    assert not np.isnan(counts.f1).any()


@pytest.mark.parametrize(("right", "n"), [(0, 7), (7, 7), (3, 11), (4500, 5000)])
def test_interval_of_a_share_is_wilsons(right, n):
    low, high = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    found = wilson(right, n)
    assert (found.value, found.low, found.high) == pytest.approx((right / n, low, high), abs=1e-12)
    nothing = wilson(0, 0)
    assert np.isnan(nothing.value)
    assert (nothing.low, nothing.high) == (0, 1)


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1"])
def test_interval_by_the_delta_method_is_that_of_the_bootstrap(name):
    found, rng = random_predictions(1500, 6), np.random.default_rng(1)
    values = []
    for _ in range(600):
        drawn = rng.integers(0, len(found), len(found))
        values.append(getattr(metrics_of(made_up(found.labels[drawn], found.predicted[drawn])), name).value)
    interval = getattr(metrics_of(found), name)
    assert (interval.high - interval.low) / 2 / Z == pytest.approx(np.std(values), rel=0.12)


def test_interval_of_the_mean_average_precision_is_that_of_the_bootstrap():
    rng = np.random.default_rng(2)
    targets = rng.random((800, 4)) < (0.1, 0.2, 0.4, 0.7)
    logits = (2 * targets + rng.normal(size=targets.shape)).astype(np.float32)

    def predictions(drawn):
        names = [f"{k}.jpg" for k in range(len(drawn))]
        return MultiLabelPredictions(names, targets[drawn], logits[drawn], ["a", "b", "c", "d"])

    found = mean_average_precision(predictions(np.arange(800)))
    assert found.value == pytest.approx(sk.average_precision_score(targets, logits))
    draws = [sk.average_precision_score(targets[each], logits[each]) for each in rng.integers(0, 800, (600, 800))]
    assert (found.high - found.low) / 2 / Z == pytest.approx(np.std(draws), rel=0.12)


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1"])
@pytest.mark.parametrize(("right", "classes", "images"), [(10, 10, 1), (6, 10, 1), (0, 10, 1), (20, 10, 2), (15, 5, 3)])
def test_few_images_per_class_are_no_certainty(name, right, classes, images):
    """The interval is about as wide as that of the share of right predictions of as many images."""
    labels = np.arange(classes * images) % classes
    predicted = np.where(np.arange(len(labels)) < right, labels, (labels + 1) % classes)
    found, top1 = metrics_of(made_up(labels, predicted)), wilson(right, len(labels))
    own = getattr(found, name)
    assert own.low <= own.value <= own.high
    assert own.high - own.low > 0.6 * (top1.high - top1.low)


def test_perfect_average_precision_is_no_certainty():
    targets = np.array([[True, False], [False, True], [True, True]])
    found = mean_average_precision(MultiLabelPredictions(["a", "b", "c"], targets, 4.0 * targets - 2, ["x", "y"]))
    assert found.value == 1
    assert found.low == pytest.approx(wilson(3, 3).low)


def test_a_single_image_has_metrics():
    metrics = metrics_of(made_up([1], [0]))
    assert (metrics.top1.value, metrics.macro_f1.value, metrics.balanced_accuracy.value) == (0, 0, 0)
    assert metrics.classes == 1


def test_calibration_error_is_that_of_the_definition():
    rng = np.random.default_rng(3)
    confidence = rng.random(500) ** 0.5
    labels = rng.integers(0, 4, 500)
    predicted = np.where(rng.random(500) < confidence**2, labels, (labels + 1) % 4)
    found = calibration_of(made_up(labels, predicted, confidence=confidence))
    expected = 0.0
    for k in range(15):
        inside = (confidence > k / 15) & (confidence <= (k + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs((labels == predicted)[inside].mean() - confidence[inside].mean())
    assert found.error == pytest.approx(expected)
    assert found.excess == pytest.approx(confidence.mean() - (labels == predicted).mean())
    assert found.images.sum() == 500


def test_certain_predictions_lie_in_the_last_bin():
    found = calibration_of(made_up([0, 1], [0, 0], confidence=[1.0, 1.0]))
    assert found.images[-1] == 2
    assert found.error == pytest.approx(0.5)
