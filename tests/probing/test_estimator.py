"""The scikit-learn transformer: against the pool, in a pipeline, cloned and pickled."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline

from timm_gcp import GCPError, covariance_sqrt
from timm_gcp.probing.estimator import CovariancePooling


def maps(images=30, channels=8, seed=0):
    """Images of two classes with the same mean, which differ in a correlation."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((images, channels, 5, 5)).astype(np.float32)
    labels = np.arange(images) % 2
    x[labels == 1, 0] = 0.2 * x[labels == 1, 0] + 0.8 * x[labels == 1, 1]
    return x, labels


def test_inner_products_are_those_of_the_roots():
    x, _ = maps()
    pooling = CovariancePooling(4, "svdlyap").fit(x)
    out = pooling.transform(x)
    assert out.shape == (30, 10)
    assert out.dtype == np.float32
    reduced = torch.from_numpy(pooling.components_) @ torch.from_numpy(x).flatten(2)
    roots = covariance_sqrt(reduced, "svdlyap").flatten(1)
    assert np.allclose(out @ out.T, (roots @ roots.T).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("method", "score"), [("cov", 0.9), ("maxexp", 0.9), ("corr", 0.7), ("logm", 0.9)])
def test_other_functions_of_the_covariance(method, score):
    """Classes that differ in a correlation are told apart by each; along principal directions it is a variance too."""
    x, labels = maps(60)
    pipeline = make_pipeline(CovariancePooling(method=method), RidgeClassifierCV()).fit(x, labels)
    new, truth = maps(60, seed=1)
    assert pipeline.score(new, truth) > score


def test_tokens_and_maps_are_the_same():
    x, _ = maps()
    tokens = x.reshape(30, 8, 25).transpose(0, 2, 1)
    first, second = CovariancePooling(3).fit(x), CovariancePooling(3).fit(torch.from_numpy(tokens.copy()))
    assert np.allclose(first.transform(x), second.transform(tokens), atol=1e-5)


def test_in_a_pipeline():
    x, labels = maps(60)
    pipeline = make_pipeline(CovariancePooling(), RidgeClassifierCV()).fit(x, labels)
    new, truth = maps(60, seed=1)
    assert pipeline.score(new, truth) > 0.9
    again = pickle.loads(pickle.dumps(pipeline))
    assert np.array_equal(again.predict(new), pipeline.predict(new))
    names = pipeline[0].get_feature_names_out()
    assert (len(names), names[0], names[-1]) == (36, "covariance0_0", "covariance7_7")
    fresh = clone(pipeline[0]).set_params(method="polar")
    assert fresh.get_params() == {"n_components": None, "method": "polar"}
    assert not hasattr(fresh, "components_")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: CovariancePooling().fit(x[:, :, 0, 0]), "not an input of 2 dimensions"),
        (lambda x: CovariancePooling().fit(x[:, :, :1, :1]), "single position"),
        (lambda x: CovariancePooling(9).fit(x), "8 channels; give 1 to 8"),
        (lambda x: CovariancePooling(method="bcnn").fit(x), "no function of the covariance"),
        (lambda x: CovariancePooling(method="gaussian").fit(x), "no function of the covariance"),
        (lambda x: CovariancePooling(method="bdc").fit(x), "no function of the covariance"),
        (lambda x: CovariancePooling(method="isqr").fit(x), "isqrt"),
        (lambda x: CovariancePooling().fit(x * np.nan), "images 0 to 29 are not finite"),
        (lambda x: CovariancePooling().fit(x).transform(x[:, :5]), "fitted to 8 channels, not 5"),
    ],
)
def test_refused(make, message):
    with pytest.raises(GCPError, match=message):
        make(maps()[0])
