"""Ridge with exact leave-one-out against refits and scikit-learn; logistic regression against the primal."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeCV

from timm_gcp import GCPError
from timm_gcp.probing.classifiers import centred, fit_logistic, fit_ridge, nearest_neighbours, temperature_of


def data(images=24, views=1, width=60, classes=3, shift=2.0):
    torch.manual_seed(0)
    return torch.randn(images * views, width, dtype=torch.float64) + shift, torch.arange(images) % classes


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("width", [5, 60])
def test_left_out_scores_are_those_of_refits(width, views):
    """Also with more images than features, and with features far from the origin."""
    features, labels = data(views=views, width=width, shift=50.0)
    fit = fit_ridge(centred(features @ features.T), labels, 3, views)
    targets = torch.nn.functional.one_hot(labels.repeat_interleave(views), 3).double()
    for image in range(len(labels)):
        kept = torch.ones(len(features), dtype=torch.bool)
        kept[image * views : (image + 1) * views] = False
        inside, mean = features[kept], features[kept].mean(0)
        gram = (inside - mean).T @ (inside - mean) + fit.strength * torch.eye(width, dtype=torch.float64)
        weights = torch.linalg.solve(gram, (inside - mean).T @ (targets[kept] - targets[kept].mean(0)))
        scores = ((features[~kept] - mean) @ weights + targets[kept].mean(0)).mean(0)
        assert torch.allclose(scores, fit.left_out[image], atol=1e-8)


def test_left_out_errors_are_those_of_scikit_learn():
    features, labels = data()
    fit = fit_ridge(centred(features @ features.T), labels, 3)
    targets = torch.nn.functional.one_hot(labels, 3).double()
    other = RidgeCV(alphas=[fit.strength], store_cv_results=True).fit(features.numpy(), targets.numpy())
    errors = (fit.left_out - targets).square().numpy()
    assert np.allclose(errors, other.cv_results_[:, :, 0], atol=1e-10)
    scores = (features - features.mean(0)) @ (features - features.mean(0)).T @ fit.coefficients + fit.intercept
    assert np.allclose(scores.numpy(), other.predict(features.numpy()), atol=1e-8)


def test_noise_is_not_learned():
    """Without the correction for the intercept, left-out accuracy on noise is far above chance."""
    torch.manual_seed(1)
    features, labels = torch.randn(120, 400, dtype=torch.float64), torch.arange(120) % 4
    fit = fit_ridge(centred(features @ features.T), labels, 4)
    assert (fit.left_out.argmax(1) == labels).double().mean() < 0.45


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_is_that_of_the_primal(classes):
    features, labels = data(classes=classes, width=40)
    fit = fit_logistic(centred(features @ features.T), labels, classes)
    inside = features - features.mean(0)
    scale = inside.square().sum(1).mean() * len(inside) / len(inside)
    other = LogisticRegression(C=1.0, max_iter=2000, tol=1e-8).fit((inside / scale.sqrt()).numpy(), labels.numpy())
    scores = inside @ inside.T @ fit.coefficients + fit.intercept
    expected = other.predict_proba((inside / scale.sqrt()).numpy())
    assert np.allclose(scores.softmax(1).numpy(), expected, atol=5e-3)


def test_classes_without_an_image():
    features, labels = data(classes=3)
    for fit in (fit_ridge, fit_logistic):
        found = fit(centred(features @ features.T), labels, 5)
        scores = (features - features.mean(0)) @ (features - features.mean(0)).T @ found.coefficients + found.intercept
        assert scores.shape == (len(labels), 5)
        assert set(scores.argmax(1).tolist()) <= {0, 1, 2}
    with pytest.raises(GCPError, match="two classes"):
        fit_ridge(centred(features @ features.T), torch.zeros_like(labels), 3)


def test_nearest_neighbours_leave_the_image_itself_out():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert nearest_neighbours(features, labels, 2, neighbours=1).argmax(1).tolist() == [0, 0, 1, 1]
    alone = torch.tensor([0, 1, 0, 1])  # the nearest other image has the other label
    assert nearest_neighbours(features, alone, 2, neighbours=1).argmax(1).tolist() == [1, 0, 1, 0]
    new = torch.tensor([[2.0, 0.2]])
    assert nearest_neighbours(features, labels, 2, new, 3).argmax(1).tolist() == [0]


def test_temperature():
    logits = torch.tensor([[1.0, 0.0]] * 80 + [[0.0, 1.0]] * 20, dtype=torch.float64)
    factor = temperature_of(logits, torch.zeros(100, dtype=torch.int64))
    assert torch.tensor([factor, 0.0]).softmax(0)[0].item() == pytest.approx(0.8, abs=0.02)


def test_images_alone_in_their_class_do_not_change_the_temperature():
    """Left out, they are wrong whatever the classifier is."""
    scores = torch.tensor([[1.0, 0.0, 0.0]] * 9 + [[0.0, 1.0, 0.0]] * 11, dtype=torch.float64)
    labels = torch.tensor([0] * 10 + [1] * 10)
    more = torch.cat([scores, torch.tensor([[0.9, 0.1, 0.0]], dtype=torch.float64)])
    assert temperature_of(more, torch.cat([labels, torch.tensor([2])])) == temperature_of(scores, labels)


def test_one_image_per_class_has_no_leave_one_out():
    torch.manual_seed(0)
    features = torch.randn(5, 7, dtype=torch.float64)
    fit = fit_ridge(centred(features @ features.T), torch.arange(5), 5)
    assert fit.left_out is None
    factor = temperature_of(None, torch.arange(5))
    assert (factor * torch.eye(5)).softmax(1).diagonal().min() > 0.9
