"""Descriptors other than a root of Σ: covariance, MaxExp, correlation, Gaussian embedding, Brownian distance."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from tests.support.reference import KINDS, awkward, relative
from timm_gcp import METHODS, GCPError, covariance_sqrt, matrix_sqrt, pool_features
from timm_gcp.spectral.covariance import centre, covariance, triangle

NEW = ("cov", "maxexp", "corr", "gaussian", "bdc")
WITH_MEAN = ("gaussian", "bdc")
SHAPES = [(6, 15), (12, 5), (1, 4), (5, 1)]


def gradient(x, method, g=None, **args):
    x = x.clone().requires_grad_()
    y = pool_features(x, method, **args)
    y.backward(torch.ones_like(y) if g is None else g)
    return y.detach(), x.grad


def root(matrix):
    """The square root by an eigendecomposition that autograd differentiates."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt().unsqueeze(-2)) @ vectors.mT


def reference(x, method):
    """The formula of the paper, entry by entry or by autograd's own eigendecomposition; the triangle of the result."""
    c, m = x.shape[-2:]
    mean = x.mean(-1, keepdim=True)
    sigma = (x - mean) @ (x - mean).mT / m
    eye = torch.eye(c, dtype=x.dtype)
    if method == "cov":
        out = sigma
    elif method == "maxexp":
        trace = sigma.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
        out = eye - torch.linalg.matrix_power(eye - sigma / trace, 50)
    elif method == "corr":
        out = root(torch.stack([torch.corrcoef(one) for one in x]))
    elif method == "gaussian":
        top = torch.cat([sigma + mean @ mean.mT, mean], -1)
        out = root(torch.cat([top, torch.cat([mean.mT, torch.ones_like(mean[:, :1])], -1)], -2))
    else:
        between = (x.unsqueeze(-2) - x.unsqueeze(-3)).square().sum(-1) / (2 * m)
        distances = (between + eye).sqrt() - eye  # so that autograd has no root of zero; the diagonal stays zero
        rows, columns = distances.mean(-1, keepdim=True), distances.mean(-2, keepdim=True)
        out = distances - rows - columns + distances.mean((-2, -1), keepdim=True)
    index = np.triu_indices(out.shape[-1])
    return out[:, index[0], index[1]]


@pytest.mark.parametrize("method", NEW)
@pytest.mark.parametrize(("c", "m"), [(6, 15), (3, 40)])
def test_value_and_gradient_are_those_of_the_reference(method, c, m):
    x = torch.randn(3, c, m, dtype=torch.float64) + torch.linspace(-1, 1, c, dtype=torch.float64)[:, None]
    leaf = x.clone().requires_grad_()
    expected = reference(leaf, method)
    g = torch.randn_like(expected)
    expected.backward(g)
    for dtype in (torch.float64, torch.float32):
        y, grad = gradient(x, method, g, dtype=dtype)
        tolerance = 1e-10 if dtype == torch.float64 else 1e-4
        assert relative(y, expected.detach()) < tolerance
        assert relative(grad, leaf.grad) < tolerance


@pytest.mark.parametrize("method", NEW)
@pytest.mark.parametrize(("c", "m"), SHAPES)
def test_gradcheck(method, c, m):
    x = torch.randn(2, c, m, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: pool_features(x, method, dtype=torch.float64), (x,))


@pytest.mark.parametrize("method", NEW)
@given(
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**31),
    exponent=st.integers(-15, 15),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
)
def test_finite_on_awkward_features(method, size, kind, seed, exponent, dtype):
    x = (awkward(kind, *size, torch.Generator().manual_seed(seed)) * 10.0**exponent).to(dtype)
    y, grad = gradient(x, method)
    assert y.dtype == grad.dtype == dtype
    assert torch.isfinite(y).all()
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("method", [name for name in NEW if name != "gaussian"])
@pytest.mark.parametrize(("c", "m"), SHAPES)
def test_law_of_scale(method, c, m):
    """Scaling the features by s scales the output by sᵏ and the gradient by sᵏ⁻¹."""
    degree = {"cov": 2, "maxexp": 0, "corr": 0, "bdc": 1}[method]
    assert METHODS[method].degree() == degree
    x = torch.randn(2, c, m, dtype=torch.float64)
    g = torch.randn(2, METHODS[method].width(c), dtype=torch.float64)
    y, grad = gradient(x, method, g, dtype=torch.float64)
    for scale in (1e-15, 0.3, 1e15):
        scaled_y, scaled_grad = gradient(scale * x, method, g, dtype=torch.float64)
        assert (scaled_y / scale**degree - y).norm() <= 1e-12 * y.norm()
        assert (scaled_grad * scale ** (1 - degree) - grad).norm() <= 1e-12 * max(1.0, float(grad.norm()))


@pytest.mark.parametrize("method", NEW)
@pytest.mark.parametrize(("c", "m"), [(6, 15), (12, 5)])
def test_symmetries(method, c, m):
    """Positions may be permuted; permuting channels permutes rows and columns; a constant may be added or not."""
    x = torch.randn(2, c, m, dtype=torch.float64)
    y = pool_features(x, method, dtype=torch.float64)
    assert relative(pool_features(x[..., torch.randperm(m)], method, dtype=torch.float64), y) < 1e-10
    p = torch.randperm(c)
    size = c + (method == "gaussian")
    rows, columns = torch.triu_indices(size, size)
    whole = torch.zeros(2, size, size, dtype=torch.float64)
    whole[:, rows, columns] = whole[:, columns, rows] = y
    q = torch.cat([p, torch.tensor([c])]) if method == "gaussian" else p
    permuted = pool_features(x[:, p], method, dtype=torch.float64)
    assert relative(permuted, triangle(whole[:, q][:, :, q])) < 1e-10
    shifted = pool_features(x + torch.randn(c, 1, dtype=torch.float64), method, dtype=torch.float64)
    assert (relative(shifted, y) < 1e-10) == (method not in WITH_MEAN)


@pytest.mark.parametrize("method", NEW)
def test_a_bad_image_stays_alone(method):
    x = torch.randn(3, 6, 9)
    clean = pool_features(x, method)
    x[1, 2, 3] = torch.nan
    y = pool_features(x, method)
    assert y[1].isnan().any()
    assert relative(y[::2], clean[::2]) < 1e-6


@pytest.mark.parametrize("method", WITH_MEAN)
def test_methods_of_the_mean_are_no_functions_of_the_covariance(method):
    for function in (covariance_sqrt, matrix_sqrt):
        with pytest.raises(GCPError, match="no function of the covariance"):
            function(torch.randn(2, 5, 5), method)


# cov


def test_a_scale_whose_square_overflows_keeps_zeros():
    x = torch.zeros(1, 2, 2)
    x[0, 0, 0] = 3e30
    assert pool_features(x, "cov")[0, 1:].tolist() == [0, 0]


# maxexp


@pytest.mark.parametrize("eta", [1, 2, 3, 7, 20, 64])
@pytest.mark.parametrize(("c", "m"), [(9, 5), (5, 9), (6, 6)])
def test_max_exp_for_every_exponent(eta, c, m):
    x = torch.randn(2, c, m, dtype=torch.float64)
    sigma = covariance(x)
    trace = sigma.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    eye = torch.eye(c, dtype=torch.float64)
    expected = eye - torch.linalg.matrix_power(eye - sigma / trace, eta)
    for y in (
        covariance_sqrt(x, "maxexp", eta=eta, dtype=torch.float64),
        matrix_sqrt(sigma, "maxexp", eta=eta, dtype=torch.float64),
    ):
        assert relative(y, expected) < 1e-12


def test_max_exp_keeps_the_digits_of_small_eigenvalues():
    """I − (I − A)^η subtracted as it is written would leave none of an eigenvalue of 10⁻⁹ in float32."""
    sigma = torch.diag(torch.tensor([1.0, 1e-9, 1e-12]))
    y = matrix_sqrt(sigma, "maxexp", eta=50, dtype=torch.float32).diagonal()
    assert torch.allclose(y, torch.tensor([1.0, 5e-8, 5e-11]), rtol=1e-4)


# corr


def test_correlation_of_channels_of_any_scale():
    """Each channel may be scaled by itself, by factors that are far apart, and changes no more than its sign."""
    x = torch.randn(2, 6, 20, dtype=torch.float64)
    y = covariance_sqrt(x, "corr")
    assert torch.allclose((y @ y).diagonal(dim1=-2, dim2=-1), torch.ones(2, 6, dtype=torch.float64))
    scales = torch.tensor([1e-60, 1e-9, 1.0, -3.0, 1e9, 1e60], dtype=torch.float64)[:, None]
    assert relative(covariance_sqrt(scales * x, "corr"), scales.sign() * y * scales.sign().mT) < 1e-12
    deviations = torch.logspace(-3, 3, 6, dtype=torch.float64)
    sigma = deviations[:, None] * covariance(x) * deviations
    assert relative(matrix_sqrt(sigma, "corr"), y) < 1e-10


def test_correlation_of_constant_channels():
    """Their rows and columns are zero, and so are their gradients; the other channels do not change."""
    x = torch.randn(2, 6, 20, dtype=torch.float64)
    x[:, [1, 4]] = 3.0
    others = [0, 2, 3, 5]
    leaf = x.clone().requires_grad_()
    y = covariance_sqrt(leaf, "corr")
    y.square().sum(0).diagonal().cumsum(0)[-1].backward()
    y.detach_()
    assert y[:, [1, 4]].abs().max() < 1e-14
    assert relative(y[:, others][..., others], covariance_sqrt(x[:, others], "corr")) < 1e-12
    assert (leaf.grad[:, [1, 4]] == 0).all()
    sigma = covariance(x).requires_grad_()
    given = matrix_sqrt(sigma, "corr")
    given.sum().backward()
    assert relative(given.detach(), y) < 1e-12
    assert torch.isfinite(sigma.grad).all()
    assert (sigma.grad[:, [1, 4]] == 0).all()


# gaussian


@pytest.mark.parametrize("beta", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_gaussian_embedding_at_true_scale(beta, scale):
    x = scale * (torch.randn(2, 5, 30, dtype=torch.float64) + 1)
    mean = x.mean(-1, keepdim=True)
    top = torch.cat([covariance(x) + beta**2 * mean @ mean.mT, beta * mean], -1)
    whole = torch.cat([top, torch.cat([beta * mean.mT, torch.ones(2, 1, 1, dtype=torch.float64)], -1)], -2)
    y = pool_features(x, "gaussian", beta=beta)
    assert y.shape == (2, METHODS["gaussian"].width(5)) == (2, 21)
    assert relative(y, triangle(root(whole))) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", [-30, -15, 15, 30])
def test_gaussian_embedding_far_from_one(dtype, exponent):
    """Of small features a one in the corner is left, of large ones the root of Σ + μμᵀ."""
    x = torch.randn(2, 5, 30, dtype=torch.float64) + 1
    expected = torch.zeros(2, 6, 6, dtype=torch.float64)
    if exponent < 0:
        expected[:, 5, 5] = 1
    else:
        expected[:, :5, :5] = 10.0**exponent * root(x @ x.mT / 30)
    y, grad = gradient((x * 10.0**exponent).to(dtype), "gaussian")
    assert relative(y, triangle(expected)) < 1e-6
    assert torch.isfinite(grad).all()
    assert 1e-3 < float(grad.norm()) < 1e3  # its bound does not depend on the scale
    small = pool_features((x * 10.0**exponent).to(dtype), "gaussian", dtype=torch.float32)
    assert relative(small, triangle(expected)) < 1e-3


def test_gaussian_embedding_has_the_bound_of_a_root():
    for kind in KINDS:
        for c, m in ((24, 10), (10, 24)):
            x = awkward(kind, c, m, torch.Generator().manual_seed(0)).requires_grad_()
            y = pool_features(x, "gaussian", beta=0.5)
            g = torch.randn_like(y)
            y.backward(g)
            # Z is linear in x: X̄ and βμ are orthogonal parts of x/√M, of which the second is weighted with β.
            assert x.grad.norm() <= math.sqrt(2 / m) * g.norm() * (1 + 1e-6)


# bdc


def test_brownian_distance_is_double_centred():
    x = torch.randn(2, 6, 9, dtype=torch.float64)
    rows, columns = torch.triu_indices(6, 6)
    whole = torch.zeros(2, 6, 6, dtype=torch.float64)
    whole[:, rows, columns] = whole[:, columns, rows] = pool_features(x, "bdc")
    assert whole.sum(-1).abs().max() < 1e-12
    assert (torch.linalg.eigvalsh(whole) < 1e-12).all()  # distances are of negative type
    # Moving all channels alike changes no distance; the temperature is a factor of the squares.
    moved = pool_features(x + 7 * torch.randn(2, 1, 9, dtype=torch.float64), "bdc")
    assert relative(moved, pool_features(x, "bdc")) < 1e-12
    assert relative(pool_features(x, "bdc", temperature=2.0), 2 * pool_features(x, "bdc")) < 1e-12


def test_brownian_distance_of_equal_channels():
    """At distance zero the gradient is zero, and equal channels have equal gradients."""
    x = torch.randn(1, 40, 30, dtype=torch.float64)
    x[:, 20:] = x[:, :1]
    y, grad = gradient(x, "bdc", torch.randn(1, 820, dtype=torch.float64))
    assert torch.isfinite(grad).all()
    distances = reference(x + 0, "bdc")
    assert relative(y, distances) < 1e-7
    y, grad = gradient(x[:, 20:] * torch.ones(3, 1, 1), "bdc")
    assert (y == 0).all()
    assert (grad == 0).all()


def test_centred_features_are_not_given_to_methods_of_the_mean():
    x = torch.randn(2, 5, 9, dtype=torch.float64) + 2
    for method in WITH_MEAN:
        assert relative(pool_features(centre(x) * 3, method), pool_features(x, method)) > 1e-2
