"""The mathematics of the spectral room: references, bounds, laws, awkward matrices."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import KINDS, awkward, polar_reference, relative, with_singular_values
from torch.autograd import gradcheck

from timm_gcp import METHODS, GCPError, covariance_sqrt, matrix_sqrt
from timm_gcp.spectral.covariance import binary_scale, centre, covariance, triangle
from timm_gcp.spectral.eigh import eigh
from timm_gcp.spectral.factor import factor
from timm_gcp.spectral.function import of_features
from timm_gcp.spectral.loewner import exact, k_pade, k_svd, through_eigenvectors
from timm_gcp.spectral.newton_schulz import newton_schulz

SVD_FAMILY = ["svd", "svdpade", "polar"]
sizes = st.tuples(st.integers(1, 24), st.integers(1, 24))


def backward(x, g, method, **kwargs):
    x = x.clone().requires_grad_()
    y = covariance_sqrt(x, method, **kwargs)
    y.backward(g)
    return y.detach(), x.grad


# Covariance and triangle


def test_covariance_is_the_biased_one():
    x = torch.randn(3, 5, 7, dtype=torch.float64)
    for sigma, xi in zip(covariance(x), x, strict=True):
        assert torch.allclose(sigma, torch.cov(xi, correction=0), atol=1e-14)


def test_constant_channels_centre_to_exact_zero():
    for dtype in (torch.float32, torch.float64):
        x = torch.rand(50, 1, dtype=dtype).expand(50, 196) * 1e3
        assert (centre(x) == 0).all()
        x = x.clone()
        x[:, 0] *= 1 + 1e-4
        assert (centre(x).abs().amax(1) > 0).all()


def test_triangle_is_row_major_with_the_diagonal():
    y = torch.arange(9.0).reshape(3, 3)
    assert triangle(y).tolist() == [0, 1, 2, 4, 5, 8]


def test_triangle_backward_is_its_adjoint():
    y = torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    assert gradcheck(triangle, (y,))
    v = torch.randn(2, 3, 21, dtype=torch.float64)
    out = triangle(y)
    (grad,) = torch.autograd.grad(out, y, v)
    assert torch.allclose((out * v).sum(), (y * grad).sum())


@given(st.floats(1e-300, 1e300))
def test_binary_scale_is_a_power_of_two_near_the_magnitude(value):
    scale = float(binary_scale(torch.tensor([[value, -value / 3]], dtype=torch.float64)))
    assert math.frexp(scale)[0] == 0.5
    assert 0.5 <= value / scale < 1


# Eigensolver and factor


def test_eigh_isolates_a_matrix_that_is_not_finite():
    a = torch.randn(3, 6, 6, dtype=torch.float64)
    a = a + a.mT
    a[1, 2, 3] = a[1, 3, 2] = torch.nan
    values, vectors = eigh(a)
    assert values[1].isnan().all()
    for i in (0, 2):
        assert relative(vectors[i] * values[i] @ vectors[i].mT, a[i]) < 1e-13


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("c", "m"), [(12, 7), (7, 12), (9, 9), (1, 5), (5, 1)])
def test_factor_rebuilds_the_features_and_zeroes_the_null_space(kind, c, m):
    x = centre(awkward(kind, c, m, torch.Generator().manual_seed(1)))
    u, s, w = factor(x)
    assert torch.isfinite(torch.cat([u.flatten(), s.flatten(), w.flatten()])).all()
    assert (x - u * s.unsqueeze(-2) @ w.mT).norm() <= 1e-6 * x.norm() + 1e-300
    cut = s == 0
    assert (u.mT[cut] == 0).all()
    assert (w.mT[cut] == 0).all()


# The exact root against its reference, and its bound


@pytest.mark.parametrize("method", SVD_FAMILY)
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "graded"])
@pytest.mark.parametrize(("c", "m"), [(24, 10), (10, 24), (16, 16)])
def test_svd_methods_agree_with_the_reference_when_ranks_differ(method, kind, c, m):
    x = awkward(kind, c, m, torch.Generator().manual_seed(2))
    g = torch.randn(2, c, c, dtype=torch.float64)
    y, grad = backward(x, g, method)
    expected_y, expected_grad = polar_reference(centre(x), g)
    expected_grad = (expected_grad - expected_grad.mean(-1, keepdim=True)) / math.sqrt(m)
    scale = max(1.0, float(expected_grad.norm()))
    assert (y - expected_y).norm() <= 1e-9 * max(1.0, float(expected_y.norm()))
    assert (grad - expected_grad).norm() <= 1e-9 * scale


@given(sizes, st.sampled_from(KINDS), st.integers(0, 2**31), st.sampled_from([1e-15, 1.0, 1e15]))
def test_polar_gradient_is_bounded_and_right(size, kind, seed, scale):
    c, m = size
    generator = torch.Generator().manual_seed(seed)
    x = centre(awkward(kind, c, m, generator) * scale)
    g = torch.randn(2, c, c, generator=generator, dtype=torch.float64)
    xr = x.clone().requires_grad_()
    of_features(xr, torch.sqrt, exact).backward(g)
    norms = xr.grad.flatten(1).norm(dim=1), ((g + g.mT) / 2).flatten(1).norm(dim=1)
    assert torch.isfinite(xr.grad).all()
    assert (norms[0] <= math.sqrt(2) * norms[1] * (1 + 1e-6)).all()
    if kind in ("plain", "dead_channels", "repeated_columns", "equal_eigenvalues"):
        assert relative(xr.grad, polar_reference(x, g)[1]) < 1e-6 or xr.grad.norm() < 1e-9


def test_polar_on_thousands_of_matrices():
    generator = torch.Generator().manual_seed(3)
    for c, m in [(4, 3), (3, 4), (8, 5), (6, 6), (5, 16)]:
        x = torch.randn(1000, c, m, generator=generator, dtype=torch.float64)
        x[::4] *= torch.logspace(0, -9, c, dtype=torch.float64)[:, None]  # ill-conditioned
        x[1::4, -1] = x[1::4, 0]  # a repeated channel
        x[2::4] *= (torch.rand(250, c, 1, generator=generator) > 0.5).double()  # dead channels
        g = torch.randn(1000, c, c, generator=generator, dtype=torch.float64)
        y, grad = backward(x, g, "polar")
        expected_y, expected = polar_reference(centre(x), g)
        expected = (expected - expected.mean(-1, keepdim=True)) / math.sqrt(m)
        assert torch.isfinite(grad).all()
        bound = math.sqrt(2) * ((g + g.mT) / 2).flatten(1).norm(dim=1) / math.sqrt(m)
        assert (grad.flatten(1).norm(dim=1) <= bound * (1 + 1e-6)).all()
        for part in (slice(1, None, 4), slice(2, None, 4), slice(3, None, 4)):
            assert relative(y[part], expected_y[part]) < 1e-9
            assert relative(grad[part], expected[part]) < 1e-6


@pytest.mark.parametrize(("exponent", "tolerance"), [(0, 1e-13), (4, 1e-8), (6, 1e-5)])
def test_polar_accuracy_as_conditioning_worsens(exponent, tolerance):
    x = with_singular_values(256, 196, torch.logspace(0, -exponent, 195, dtype=torch.float64)).unsqueeze(0)
    g = torch.randn(1, 256, 256, dtype=torch.float64)
    expected = polar_reference(centre(x), g)[1]
    expected = (expected - expected.mean(-1, keepdim=True)) / 14
    assert relative(backward(x, g, "polar")[1], expected) <= tolerance


@pytest.mark.parametrize("exponent", [8, 12, 15])
def test_polar_below_that_stays_within_the_bound(exponent):
    x = with_singular_values(256, 196, torch.logspace(0, -exponent, 195, dtype=torch.float64)).unsqueeze(0)
    g = torch.randn(1, 256, 256, dtype=torch.float64)
    grad = backward(x, g, "polar")[1]
    assert torch.isfinite(grad).all()
    assert grad.norm() <= math.sqrt(2) * ((g + g.mT) / 2).norm() / 14


# The rules


def test_k_rules_are_antisymmetric_and_finite():
    values = torch.tensor([0.0, 0.0, 5e-324, 1e-300, 1e-12, 1.0, 1.0, 1 + 2e-16, 3e300], dtype=torch.float64)
    for k in (k_svd, k_pade):
        matrix = k(values[:, None], values[None])
        assert torch.isfinite(matrix).all()
        assert torch.equal(matrix, -matrix.mT)


@given(st.floats(1e-12, 1e12), st.floats(1e-12, 1e12))
def test_rules_agree_with_the_exact_one_however_near_a_tie(a, b):
    a_, b_ = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    for k in (k_svd, k_pade):
        f = through_eigenvectors(k)(a_, b_)
        assert abs(f - exact(a_, b_)) <= exact(a_, b_) * 1e-15


def test_rules_at_ties_and_zero():
    two = torch.tensor(4.0, dtype=torch.float64)
    zero = torch.zeros((), dtype=torch.float64)
    for rule in (exact, through_eigenvectors(k_svd), through_eigenvectors(k_pade)):
        assert rule(two, two) == 0.25
        assert rule(two, zero) == 0.5
        assert rule(zero, zero) == 0


# Derivatives


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("c", "m"), [(5, 9), (7, 4), (1, 3), (4, 5)])
def test_gradcheck_from_features(method, c, m):
    x = torch.randn(2, c, m, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: covariance_sqrt(x, method, dtype=torch.float64), (x,))


@pytest.mark.parametrize("method", METHODS)
def test_gradcheck_from_sigma(method):
    a = torch.randn(2, 5, 8, dtype=torch.float64)
    sigma = (a @ a.mT).requires_grad_()
    assert gradcheck(lambda s: matrix_sqrt(s, method, dtype=torch.float64), (sigma,))


@pytest.mark.parametrize("method", METHODS)
def test_second_derivative_is_refused(method):
    x = torch.randn(1, 3, 5, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(covariance_sqrt(x, method).sum(), x, create_graph=True)


@pytest.mark.parametrize("method", METHODS)
def test_features_and_sigma_give_the_same(method):
    x = torch.randn(2, 6, 20, dtype=torch.float64)
    g = torch.randn(2, 6, 6, dtype=torch.float64)
    y, grad = backward(x, g, method, dtype=torch.float64)
    xr = x.clone().requires_grad_()
    y2 = matrix_sqrt(covariance(xr), method, dtype=torch.float64)
    y2.backward(g)
    assert relative(y2.detach(), y) < 1e-12
    assert relative(xr.grad, grad) < 1e-10


# Laws of a root


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("c", "m"), [(6, 15), (12, 5)])
def test_laws(method, c, m):
    x = torch.randn(2, c, m, dtype=torch.float64)
    g = torch.randn(2, c, c, dtype=torch.float64)
    y, grad = backward(x, g, method, dtype=torch.float64)
    assert relative(y.mT, y) < 1e-12
    # Scaling the features by c scales the root by c and leaves the gradient.
    for scale in (1e-15, 3.7, 1e15):
        y2, grad2 = backward(x * scale, g, method, dtype=torch.float64)
        assert relative(y2, y * scale) < 1e-10
        assert relative(grad2, grad) < 1e-8
    # Permuting channels permutes the output.
    p = torch.randperm(c)
    y2, _ = backward(x[:, p], g, method, dtype=torch.float64)
    assert relative(y2, y[:, p][:, :, p]) < 1e-10
    # Permuting positions, or adding a constant, changes nothing.
    y2, _ = backward(x[..., torch.randperm(m)] + 5, g, method, dtype=torch.float64)
    assert relative(y2, y) < 1e-10


@pytest.mark.parametrize("method", SVD_FAMILY)
def test_square_of_the_root_is_the_covariance(method):
    x = torch.randn(2, 12, 7, dtype=torch.float64)
    y = covariance_sqrt(x, method)
    assert relative(y @ y, covariance(x)) < 1e-12
    assert (torch.linalg.eigvalsh(y) > -1e-12).all()


def test_newton_schulz_converges_to_the_root():
    a = torch.randn(2, 8, 30, dtype=torch.float64)
    sigma = a @ a.mT
    root = matrix_sqrt(sigma, "polar")
    errors = [relative(newton_schulz(sigma, n), root) for n in (1, 3, 5, 8, 20)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12


def test_newton_schulz_of_zero_is_zero_with_zero_gradient():
    sigma = torch.zeros(1, 4, 4, requires_grad=True)
    y = newton_schulz(sigma)
    y.sum().backward()
    assert (y == 0).all()
    assert (sigma.grad == 0).all()
    with pytest.raises(ValueError, match="at least one iteration"):
        newton_schulz(sigma, 0)


# Finite for every finite input


@pytest.mark.parametrize("method", METHODS)
@given(
    size=sizes,
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**31),
    exponent=st.integers(-40, 37),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_every_finite_input_gives_finite_output_and_gradient(method, size, kind, seed, exponent, dtype):
    x = awkward(kind, *size, torch.Generator().manual_seed(seed)) * 10.0**exponent
    x = x.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)
    y, grad = backward(x, torch.ones(2, size[0], size[0], dtype=dtype), method)
    assert y.dtype == grad.dtype == dtype
    assert torch.isfinite(y).all()
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("method", METHODS)
def test_extreme_float64(method):
    for scale in (1e-300, 1e-160, 1e160, 1e300):
        x = torch.randn(2, 5, 9, dtype=torch.float64) * scale
        y, grad = backward(x, torch.ones(2, 5, 5, dtype=torch.float64), method)
        assert torch.isfinite(y).all()
        assert torch.isfinite(grad).all()
        assert relative(y / scale, covariance_sqrt(x / scale, method)) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_a_bad_image_stays_alone(method):
    x = torch.randn(3, 6, 9)
    clean = covariance_sqrt(x, method)
    x[1, 2, 3] = torch.nan
    y = covariance_sqrt(x, method)
    assert y[1].isnan().any()
    assert relative(y[[0, 2]], clean[[0, 2]]) < 1e-6


# What autograd and the caller may do


@pytest.mark.parametrize("method", METHODS)
def test_inputs_are_untouched_and_strides_do_not_matter(method):
    x = torch.randn(2, 6, 3, 4)
    before = x.clone()
    y = covariance_sqrt(x.flatten(2), method)
    assert torch.equal(x, before)
    x_last = x.contiguous(memory_format=torch.channels_last)
    assert relative(covariance_sqrt(x_last.flatten(2), method), y) < 1e-6
    wide = torch.randn(2, 12, 12)
    view = wide[:, ::2, ::1]
    assert relative(covariance_sqrt(view, method), covariance_sqrt(view.contiguous(), method)) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_leading_dimensions(method):
    x = torch.randn(2, 3, 5, 8)
    y = covariance_sqrt(x, method)
    assert y.shape == (2, 3, 5, 5)
    assert relative(y[1, 2], covariance_sqrt(x[1, 2], method)) < 1e-5
    assert matrix_sqrt(torch.eye(4), method).shape == (4, 4)


@pytest.mark.parametrize("method", METHODS)
def test_autocast_does_not_reach_the_spectral_part(method):
    x = torch.randn(2, 6, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = covariance_sqrt(x, method)
    assert relative(inside, covariance_sqrt(x, method)) < 1e-6


def test_errors_name_the_remedy():
    x = torch.randn(2, 3, 4)
    with pytest.raises(GCPError, match="did you mean svdpade"):
        covariance_sqrt(x, "svdpad")
    with pytest.raises(GCPError, match="takes: iterations"):
        covariance_sqrt(x, "isqrt", steps=3)
    with pytest.raises(GCPError, match="floating-point"):
        covariance_sqrt(torch.ones(2, 3, 4, dtype=torch.int64))
    with pytest.raises(GCPError, match="at least one"):
        covariance_sqrt(torch.ones(2, 3, 0))
    with pytest.raises(GCPError, match="square"):
        matrix_sqrt(torch.ones(2, 3, 4))
    with pytest.raises(TypeError):
        METHODS["mine"] = None
