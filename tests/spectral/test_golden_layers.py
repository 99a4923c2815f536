"""Outputs and gradients compared with those of the published layers."""

import numpy as np
import pytest
import torch

from tests.support.reference import relative
from tests.support.tools import ROOT
from timm_gcp import covariance_sqrt, matrix_sqrt
from timm_gcp.spectral.covariance import triangle
from timm_gcp.spectral.loewner import k_pade, k_svd, k_taylor, k_trunc

FOLDER = ROOT / "tests" / "golden"
GOLDEN = {name: np.load(FOLDER / f"{name}.npz") for name in ("wide", "tall", "deficient", "rules")}


def ours(name, layer, **method_args):
    data = GOLDEN[name]
    x = torch.tensor(data["x"], dtype=torch.float64, requires_grad=True)
    y = triangle(layer(x.flatten(2), **method_args))
    y.backward(torch.tensor(data["grad_y"], dtype=torch.float64))
    return y.detach(), x.grad


def check(name, key, output, gradient, tolerance):
    assert relative(output, GOLDEN[name][f"{key}_y"]) <= tolerance
    assert relative(gradient, GOLDEN[name][f"{key}_gx"]) <= tolerance


@pytest.mark.parametrize("name", ["wide", "tall", "deficient"])
@pytest.mark.parametrize("method", ["polar", "svdlyap"])
def test_exact_root(name, method):
    check(name, "exact_sqrt", *ours(name, covariance_sqrt, method=method), 1e-9)


@pytest.mark.parametrize(("name", "tolerance"), [("wide", 1e-6), ("tall", 1e-6), ("deficient", 1e-3)])
@pytest.mark.parametrize(
    ("key", "method"), [("svd", "svd"), ("svd_pade", "svdpade"), ("svd_trunc", "svdtrunc"), ("svd_taylor", "svdtaylor")]
)
def test_svd_family(name, tolerance, key, method):
    check(name, key, *ours(name, covariance_sqrt, method=method), tolerance)


@pytest.mark.parametrize("name", ["wide", "tall"])
def test_newton_backward(name):
    check(name, "svd_newton", *ours(name, covariance_sqrt, method="svdnewton", iterations=3), 1e-6)


@pytest.mark.parametrize("name", ["wide", "tall"])
def test_scaling_eigen_branch(name):
    output, gradient = ours(name, covariance_sqrt, method="seb")
    assert relative(output, GOLDEN[name]["seb_y"]) <= 1e-6
    assert relative(gradient, GOLDEN[name]["seb_gx"]) <= 1e-5


@pytest.mark.parametrize("name", ["wide", "tall", "deficient"])
@pytest.mark.parametrize("iterations", [1, 3, 5, 10])
def test_newton_schulz(name, iterations):
    # Upstream rounds its centring matrix to float32 before a float64 product; ours would differ by that 1e-8 alone.
    def upstream_centring(x, **kwargs):
        m = x.shape[-1]
        centring = (torch.eye(m) / m - torch.ones(m, m) / m / m).double()
        return matrix_sqrt(x @ centring @ x.mT, **kwargs)

    options = dict(method="isqrt", dtype=torch.float64, iterations=iterations)
    check(name, f"isqrt{iterations}", *ours(name, upstream_centring, **options), 1e-9)
    check(name, f"isqrt{iterations}", *ours(name, covariance_sqrt, **options), 1e-6)


def rule_error(k, key, smallest_gap):
    eigenvalues = torch.tensor(GOLDEN["rules"]["eigenvalues"])
    a, b = eigenvalues[:, None], eigenvalues[None]
    off = (a - b).abs() >= smallest_gap * torch.maximum(a, b)
    off.fill_diagonal_(False)
    published = torch.tensor(GOLDEN["rules"][key])
    assert off.sum() > 300
    assert (k(a, b).diagonal() == 0).all()
    return ((k(a, b) - published).abs() / published.abs().clamp_min(1e-300))[off].max()


@pytest.mark.parametrize(("k", "key"), [(k_svd, "K_svd"), (k_trunc, "K_svd_trunc"), (k_taylor(), "K_svd_taylor")])
def test_rules(k, key):
    assert rule_error(k, key, 0) <= 1e-9


@pytest.mark.parametrize(("gap", "tolerance"), [(0.99e-6, 1e-9), (0.9e-8, 1e-6), (0.9e-11, 1e-3)])
def test_pade_rule(gap, tolerance):
    assert rule_error(k_pade, "K_svd_pade", gap) <= tolerance
