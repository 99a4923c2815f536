"""The spectral methods: references, bounds, scaling laws, awkward matrices."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from tests.support.reference import KINDS, awkward, polar_reference, relative, with_singular_values
from timm_gcp import METHODS, GCPError, covariance_sqrt, matrix_sqrt, pool_features
from timm_gcp.spectral.bilinear import hashes, tensor_sketch
from timm_gcp.spectral.covariance import binary_scale, centre, covariance, triangle
from timm_gcp.spectral.eigh import eigh
from timm_gcp.spectral.factor import factor
from timm_gcp.spectral.loewner import exact, exact_power, k_pade, k_svd, k_taylor, k_trunc, through_eigenvectors
from timm_gcp.spectral.matrix_pade import matrix_root, pade_root, taylor_root
from timm_gcp.spectral.matrix_pade_eigen import matrix_root_eigen, pade_scalar, taylor_scalar
from timm_gcp.spectral.newton_schulz import newton_schulz, newton_schulz_eigenfree
from timm_gcp.spectral.newton_schulz_eigen import divided_differences, newton_schulz_eigen, scalars
from timm_gcp.spectral.spectral_function import Elementwise, of_features

# The exact root with the exact gradient, as each row computes it.
SVD_FAMILY = ["svd", "svdpade", "svdlyap", "polar"]
# Functions of the covariance; the others give a vector of their own.
COVARIANCE = [name for name, row in METHODS.items() if row.of_sigma is not None]
# Square roots, approximate ones too: scaling the features by c scales the output by c.
ROOTS = [name for name in COVARIANCE if METHODS[name].degree() == 1 and not METHODS[name].takes_unit]
# The backward of these is meant to be the derivative of their forward.
EXACT = [name for name in COVARIANCE if name not in ("svdtaylor", "svdpi", "svdnewton", "mpa", "mtp")]
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_binary_scale_is_exact_at_every_power_and_beside_it(dtype):
    limit = torch.finfo(dtype)
    bound = -math.frexp(limit.tiny)[1]
    powers = torch.tensor([2.0**k for k in range(-bound, bound)], dtype=dtype)
    values = torch.cat([powers, powers * (1 - limit.eps / 2), powers * (1 + limit.eps)])
    values = torch.cat([values, torch.tensor([limit.max, limit.tiny, limit.smallest_normal / 4], dtype=dtype)])
    expected = [2.0 ** min(max(math.frexp(v)[1], -bound), bound) for v in values.tolist()]
    assert binary_scale(values[:, None, None]).flatten().tolist() == expected


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
    of_features(xr, Elementwise(torch.sqrt, exact))[0].backward(g)
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


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize(("c", "m"), [(5, 9), (7, 4), (1, 3), (4, 5)])
def test_gradcheck_from_features(method, c, m):
    x = torch.randn(2, c, m, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: covariance_sqrt(x, method, dtype=torch.float64), (x,))


@pytest.mark.parametrize("method", EXACT)
def test_gradcheck_from_sigma(method):
    a = torch.randn(2, 5, 8, dtype=torch.float64)
    sigma = (a @ a.mT).requires_grad_()
    assert gradcheck(lambda s: matrix_sqrt(s, method, dtype=torch.float64), (sigma,))


@pytest.mark.parametrize("method", METHODS)
def test_second_derivative_is_refused(method):
    x = torch.randn(1, 3, 5, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(pool_features(x, method).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        first.sum().backward()


@pytest.mark.parametrize("method", COVARIANCE)
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


@pytest.mark.parametrize("method", ROOTS)
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


@pytest.mark.parametrize("route", [newton_schulz_eigenfree, newton_schulz_eigen])
@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6), (12, 2), (3, 1)])
@pytest.mark.parametrize("iterations", [1, 2, 5, 10])
def test_newton_schulz_by_every_route(route, shape, iterations):
    """On the smaller side, with or without an eigensolver: the iteration on Σ itself, and its gradient."""
    # After ten steps z rises to 58 at zero, and by −58³/3 a unit of λ: of float32 little is left, by any route.
    bounds = {torch.float64: 1e-12, torch.float32: 5e-6} if iterations < 10 else {torch.float64: 1e-9}
    for dtype, bound in bounds.items():
        c, m = shape
        x = centre(torch.logspace(0, -2, c, dtype=dtype)[:, None] * torch.randn(3, c, m, dtype=dtype))
        g = torch.randn(3, c, c, dtype=dtype)
        found = []
        for compute in (lambda x: newton_schulz(x @ x.mT, iterations), lambda x: route(x, iterations)):
            x = x.detach().requires_grad_()
            y = compute(x)
            found.append((y.detach(), *torch.autograd.grad(y, x, g)))
        for ours, direct in zip(*found, strict=True):
            assert relative(ours, direct) <= bound


@pytest.mark.parametrize("route", [newton_schulz_eigenfree, newton_schulz_eigen])
@pytest.mark.parametrize("shape", [(9, 5), (5, 9)])
def test_newton_schulz_of_features_at_zero(route, shape):
    x = torch.zeros(2, *shape, dtype=torch.float64)
    x[1] = torch.randn(shape)
    x.requires_grad_()
    y = route(x, 5)
    y.sum().backward()
    assert (y[0] == 0).all()
    assert (x.grad[0] == 0).all()
    assert torch.isfinite(x.grad).all()
    assert (x.grad[1] != 0).any()


def test_divided_differences_of_the_iteration():
    a = torch.tensor([0.0, 1e-12, 0.3, 0.3, 0.9, 1.0], dtype=torch.float64, requires_grad=True)
    z, pairs = divided_differences(a.detach(), 5)
    assert torch.allclose(z, scalars(a.detach(), 5), rtol=1e-14)
    gap = a.detach()[:, None] - a.detach()[None, :]
    apart = gap.abs() > 0.05
    assert torch.allclose(pairs[apart], ((z[:, None] - z[None, :]) / gap)[apart], rtol=1e-12)
    derivative = torch.autograd.grad(scalars(a, 5).sum(), a)[0]
    assert torch.allclose(pairs.diagonal(), derivative, rtol=1e-12)
    assert torch.allclose(pairs, pairs.mT, rtol=1e-12)


@pytest.mark.parametrize("method", ["polar", "svdpade", "rsqrt", "seb"])
@pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
def test_matmul_in_float32_costs_its_rounding(method, shape):
    """float32 features, eigenvalues in float64, products in float32: as accurate as float32 at any conditioning."""
    c, m = shape
    for smallest in (1e-1, 1e-4, 1e-6):
        x = with_singular_values(c, m, torch.logspace(0, math.log10(smallest), min(c, m - 1), dtype=torch.float64))
        x = x.float().double()
        g = torch.randn(c, c, dtype=torch.float64).float().double()
        exactly, single = backward(x, g, method), backward(x.float(), g.float(), method)
        assert relative(single[0].double(), exactly[0]) < 1e-6
        # The derivative of the root is bounded: an error of the products is an error of the gradient, relative to G.
        assert (single[1].double() - exactly[1]).norm() < 1e-5 * g.norm()


@pytest.mark.slow
@pytest.mark.parametrize("method", COVARIANCE)
def test_the_number_of_threads_does_not_matter(method):
    """Some builds of MKL fail in batched LU factors as soon as there are two threads."""
    x = torch.randn(4, 200, 49)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(covariance_sqrt(x, method))
    finally:
        torch.set_num_threads(before)
    assert relative(found[1], found[0]) < 1e-4
    assert torch.isfinite(found[1]).all()


# Each method's own


def test_a_power_of_the_covariance():
    x = torch.randn(2, 7, 20, dtype=torch.float64)
    for method in ("polar", "svd", "svdpade"):
        assert relative(covariance_sqrt(x, method, alpha=1.0), covariance(x)) < 1e-12
        fourth = covariance_sqrt(x, method, alpha=0.25)
        assert relative(fourth @ fourth, covariance_sqrt(x, method)) < 1e-12
        assert gradcheck(lambda x, method=method: covariance_sqrt(x, method, alpha=0.3), (x.requires_grad_(),))
        assert (
            relative(covariance_sqrt(3 * x, method, alpha=0.3), 3**0.6 * covariance_sqrt(x, method, alpha=0.3)) < 1e-12
        )


@given(st.floats(1e-9, 1.0), st.floats(1e-9, 1.0), st.floats(0.1, 1.9))
def test_power_rule_loses_no_digits(a, b, alpha):
    import mpmath

    value = float(exact_power(alpha)(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)))
    with mpmath.workdps(60):
        p, q = mpmath.mpf(a), mpmath.mpf(b)
        truth = alpha * p ** (alpha - 1) if p == q else (p ** mpmath.mpf(alpha) - q ** mpmath.mpf(alpha)) / (p - q)
        assert abs(value - truth) <= 1e-13 * abs(truth)


def test_clipping_bites_on_what_is_above_it():
    a, b = torch.tensor([4.0, 4.0], dtype=torch.float64), torch.tensor([3.0, 4.0 - 1e-3], dtype=torch.float64)
    assert torch.allclose(k_trunc(a, b, 10.0), torch.tensor([1.0, 10.0], dtype=torch.float64))


@pytest.mark.parametrize("degree", [1, 5, 100])
def test_taylor_is_the_truncated_series(degree):
    x = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    series = sum(x**k for k in range(degree + 1))
    p = torch.full_like(x, 3.0)
    assert torch.allclose(k_taylor(degree)(p, p * x), series / 3, rtol=1e-12)
    near = k_taylor(degree)(torch.tensor(1.0, dtype=torch.float64), torch.tensor(1 - 1e-14, dtype=torch.float64))
    assert abs(near - (degree + 1)) < 1e-9  # where it saturates


def test_pade_is_the_whole_series():
    for exponent in range(1, 13):
        x = 1 - torch.tensor(10.0, dtype=torch.float64) ** -exponent
        one = torch.ones((), dtype=torch.float64)
        assert abs(k_pade(one, x) * (1 - x) - 1) < 1e-15


@pytest.mark.slow
def test_topn_is_the_root_of_the_largest():
    x = torch.randn(2, 8, 30, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(covariance(x))
    expected = (vectors[..., -3:] * values[..., None, -3:].sqrt()) @ vectors[..., -3:].mT
    assert relative(covariance_sqrt(x, "svdtopn", keep=3), expected) < 1e-12
    for c, m in ((8, 30), (12, 7)):
        x = torch.randn(2, c, m, dtype=torch.float64, requires_grad=True)
        assert gradcheck(lambda x: covariance_sqrt(x, "svdtopn", keep=3), (x,))
    sigma = covariance(x.detach()).requires_grad_()
    assert gradcheck(lambda s: matrix_sqrt(s, "svdtopn", keep=3), (sigma,))


@pytest.mark.parametrize(
    ("method", "argument", "values"),
    [
        ("svdpi", "iterations", (1, 5, 20, 400)),
        ("svdtaylor", "degree", (1, 5, 20, 400)),
        ("svdnewton", "iterations", (3, 6, 12, 25)),
    ],
)
def test_backward_approximations_converge_to_the_exact_rule(method, argument, values):
    x = torch.randn(2, 6, 40, dtype=torch.float64)
    g = torch.randn(2, 6, 6, dtype=torch.float64)
    root, exact_gradient = backward(x, g, "polar")
    errors = []
    for value in values:
        y, gradient = backward(x, g, method, **{argument: value})
        assert relative(y, root) < 1e-14
        errors.append(max(relative(gradient, exact_gradient), 1e-14))  # below, rounding decides the order
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("method", ["mpa", "mtp"])
def test_matrix_approximants_converge_with_degree_and_steps(method):
    x = torch.randn(2, 6, 40, dtype=torch.float64)
    g = torch.randn(2, 6, 6, dtype=torch.float64)
    root, exact_gradient = backward(x, g, "polar")
    results = [backward(x, g, method, dtype=torch.float64, degree=d, iterations=25) for d in (1, 3, 6, 12)]
    for part, truth in ((0, root), (1, exact_gradient)):
        errors = [relative(result[part], truth) for result in results]
        assert errors == sorted(errors, reverse=True)
    assert relative(results[-1][0], root) < (1e-6 if method == "mpa" else 1e-2)
    steps = [
        relative(backward(x, g, "mpa", dtype=torch.float64, degree=12, iterations=n)[1], exact_gradient)
        for n in (2, 5, 9)
    ]
    assert steps == sorted(steps, reverse=True)


@pytest.mark.parametrize(("approximant", "scalar"), [(pade_root, pade_scalar), (taylor_root, taylor_scalar)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 2e-5)])
@pytest.mark.parametrize(("degree", "iterations"), [(1, 1), (5, 8), (11, 30)])
def test_matrix_approximants_on_the_smaller_side(approximant, scalar, dtype, tolerance, degree, iterations):
    """On the eigenvalues of the smaller side: the function of Σ itself, its null space included, and its gradient."""
    for kind in KINDS:
        for c, m in ((24, 10), (10, 24), (9, 9), (1, 5), (5, 1)):
            x = centre(awkward(kind, c, m, torch.Generator().manual_seed(0))).to(dtype)
            g = torch.randn(2, c, c, dtype=dtype)
            one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
            expected = matrix_root(one @ one.mT, approximant, degree, iterations)
            y = matrix_root_eigen(other, scalar, degree, iterations)
            assert (y - expected).norm() <= tolerance * expected.norm()
            expected.backward(g)
            y.backward(g)
            assert (other.grad - one.grad).norm() <= tolerance * one.grad.norm()


def test_pade_root_is_the_approximant():
    a = torch.diag(torch.tensor([0.2, 0.7, 1.0, 1.4], dtype=torch.float64))
    assert torch.allclose(pade_root(a, 1).diagonal(), (1 + 3 * a.diagonal()) / (3 + a.diagonal()))
    # [n/n] agrees with the series of √(1 − z) up to z^(2n).
    import mpmath

    for n in (2, 5):
        p, q = mpmath.pade(mpmath.taylor(lambda z: mpmath.sqrt(1 - z), 0, 2 * n), n, n)
        for value in a.diagonal().tolist():
            expected = float(mpmath.polyval(p[::-1], 1 - value) / mpmath.polyval(q[::-1], 1 - value))
            ours = float(pade_root(torch.tensor([[value]], dtype=torch.float64), n))
            assert abs(ours - expected) < 1e-12


def test_regularised_root_lies_under_the_root_and_is_smooth_at_zero():
    x = torch.randn(2, 6, 40, dtype=torch.float64)
    root = covariance_sqrt(x, "polar")
    values = [torch.linalg.eigvalsh(covariance_sqrt(x, "rsqrt", share=s)) for s in (1e-12, 1e-2, 1.0)]
    assert (values[0] > values[1]).all()
    assert (values[1] > values[2]).all()
    assert relative(values[0], torch.linalg.eigvalsh(root)) < 1e-5
    mean = covariance(x).diagonal(dim1=-2, dim2=-1).mean(-1)
    eigenvalues = torch.linalg.eigvalsh(covariance(x))
    delta = 0.1 * mean[:, None]
    expected = (eigenvalues + delta).sqrt() - delta.sqrt()
    assert relative(torch.linalg.eigvalsh(covariance_sqrt(x, "rsqrt", share=0.1)), expected) < 1e-12
    # In the null space its derivative is that of a smooth function: gradcheck passes on a rank-deficient Σ.
    deficient = torch.randn(5, 2, dtype=torch.float64)
    sigma = (deficient @ deficient.mT + 1e-3 * torch.eye(5, dtype=torch.float64)).requires_grad_()
    assert gradcheck(lambda s: matrix_sqrt(s, "rsqrt"), (sigma,))


def test_log_laws():
    x = torch.randn(2, 6, 40, dtype=torch.float64)
    y = covariance_sqrt(x, "logm")
    eye = torch.eye(6, dtype=torch.float64)
    for scale in (1e-15, 3.7, 1e15):
        assert relative(covariance_sqrt(scale * x, "logm"), y + 2 * math.log(scale) * eye) < 1e-12
    delta = 1e-3 * covariance(x).diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    assert relative(torch.matrix_exp(y), covariance(x) + delta * eye) < 1e-10


def test_seb_laws():
    x = torch.randn(2, 6, 40, dtype=torch.float64)
    root = covariance_sqrt(x, "polar")
    factor_ = 1 + torch.linalg.matrix_norm(root @ torch.matrix_exp(-covariance(x)))
    assert relative(covariance_sqrt(x, "seb"), factor_[:, None, None] * root) < 1e-12
    # Far from the origin the branch vanishes and the root is left.
    assert relative(covariance_sqrt(1e3 * x, "seb"), 1e3 * root) < 1e-12
    p = torch.randperm(6)
    assert relative(covariance_sqrt(x[:, p], "seb"), covariance_sqrt(x, "seb")[:, p][:, :, p]) < 1e-12


def test_bilinear_laws():
    x = torch.randn(3, 6, 40)
    y = pool_features(x, "bcnn")
    assert y.shape == (3, 36)
    assert torch.allclose(y.norm(dim=-1), torch.ones(3))
    assert torch.allclose(y.reshape(3, 6, 6), y.reshape(3, 6, 6).mT, atol=1e-6)  # a BLAS may round both halves apart
    assert torch.allclose(pool_features(4 * x, "bcnn"), y)  # a power of two: exact
    second = (x @ x.mT / 40).flatten(-2)
    assert (torch.sign(y) == torch.sign(second)).all()
    with pytest.raises(GCPError, match="no function of the covariance"):
        covariance_sqrt(x, "bcnn")


def test_compact_bilinear_estimates_the_bilinear_kernel():
    x, z = torch.randn(2, 200, 6, 5, dtype=torch.float64)
    truth = ((x @ x.mT) * (z @ z.mT)).sum((-2, -1)) / 25
    errors = []
    for sketch in (64, 1024, 16384):
        places, signs = hashes(6, sketch, torch.device("cpu"))
        assert places.max() < sketch
        assert set(signs.flatten().tolist()) <= {-1.0, 1.0}
        a, b = (tensor_sketch(t, sketch) for t in (x, z))
        errors.append(float(((a * b).sum(-1) - truth).abs().mean()))
    assert errors[0] > errors[1] > errors[2]
    assert pool_features(x, "cbp", sketch=512).shape == (200, 512)
    assert torch.allclose(pool_features(x, "cbp").norm(dim=-1), torch.ones(200, dtype=torch.float64))


@pytest.mark.parametrize("method", ["bcnn", "cbp"])
@given(size=sizes, kind=st.sampled_from(KINDS), seed=st.integers(0, 2**31), exponent=st.integers(-40, 37))
def test_bilinear_methods_are_finite(method, size, kind, seed, exponent):
    x = (awkward(kind, *size, torch.Generator().manual_seed(seed)) * 10.0**exponent).clamp(-3e38, 3e38).float()
    x.requires_grad_()
    y = pool_features(x, method, **({"sketch": 64} if method == "cbp" else {}))
    y.square().sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()


def test_arguments_are_checked():
    x = torch.randn(1, 3, 4)
    for method, args in (("isqrt", {"iterations": 0}), ("svdtaylor", {"degree": 2.5}), ("rsqrt", {"share": -1})):
        with pytest.raises(GCPError, match="is a"):
            covariance_sqrt(x, method, **args)


# Finite for every finite input


@pytest.mark.parametrize("method", COVARIANCE)
@given(
    size=sizes,
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**31),
    exponent=st.integers(-40, 37),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_every_finite_input_gives_finite_output_and_gradient(method, size, kind, seed, exponent, dtype):
    if not METHODS[method].is_root:  # its value or its derivative leaves the range of other inputs, and rightly so
        exponent = max(-15, min(exponent, 15))
        dtype = torch.float32 if dtype == torch.float16 else dtype
    x = awkward(kind, *size, torch.Generator().manual_seed(seed)) * 10.0**exponent
    x = x.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)
    y, grad = backward(x, torch.ones(2, size[0], size[0], dtype=dtype), method)
    assert y.dtype == grad.dtype == dtype
    assert torch.isfinite(y).all()
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("method", ROOTS)
def test_extreme_float64(method):
    for scale in (1e-300, 1e-160, 1e160, 1e300):
        x = torch.randn(2, 5, 9, dtype=torch.float64) * scale
        y, grad = backward(x, torch.ones(2, 5, 5, dtype=torch.float64), method, dtype=torch.float64)
        assert torch.isfinite(y).all()
        assert torch.isfinite(grad).all()
        assert relative(y / scale, covariance_sqrt(x / scale, method, dtype=torch.float64)) < 1e-12


@pytest.mark.parametrize("method", COVARIANCE)
def test_a_bad_image_stays_alone(method):
    x = torch.randn(3, 6, 9)
    clean = covariance_sqrt(x, method)
    x[1, 2, 3] = torch.nan
    y = covariance_sqrt(x, method)
    assert y[1].isnan().any()
    assert relative(y[[0, 2]], clean[[0, 2]]) < 1e-6


# What autograd and the caller may do


@pytest.mark.parametrize("method", COVARIANCE)
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


@pytest.mark.parametrize("method", COVARIANCE)
def test_leading_dimensions(method):
    x = torch.randn(2, 3, 5, 8)
    y = covariance_sqrt(x, method)
    assert y.shape == (2, 3, 5, 5)
    assert relative(y[1, 2], covariance_sqrt(x[1, 2], method)) < 1e-5
    assert matrix_sqrt(torch.eye(4), method).shape == (4, 4)


@pytest.mark.parametrize("method", COVARIANCE)
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
    with pytest.raises(GCPError, match="floating point"):
        covariance_sqrt(torch.ones(2, 3, 4, dtype=torch.int64))
    with pytest.raises(GCPError, match="at least one"):
        covariance_sqrt(torch.ones(2, 3, 0))
    with pytest.raises(GCPError, match="square"):
        matrix_sqrt(torch.ones(2, 3, 4))
    with pytest.raises(TypeError):
        METHODS["mine"] = None
