"""The exact root without an eigensolver: the polar decomposition of the features."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from tests.support.reference import KINDS, awkward, polar_reference, relative, with_singular_values
from timm_gcp import METHODS, GCPError, GlobalCovariancePool, covariance_sqrt, matrix_sqrt
from timm_gcp.spectral.covariance import centre
from timm_gcp.spectral.polar import DTYPES, polar_root, scalings, steps_in

SHAPES = [(24, 10), (10, 24), (16, 16), (64, 49)]
sizes = st.tuples(st.integers(1, 20), st.integers(1, 20))


def backward(x, g, matmul_dtype=None):
    x = x.clone().requires_grad_()
    y = polar_root(x, matmul_dtype)
    y.backward(g.to(y.dtype))
    return y.detach(), x.grad


@pytest.mark.parametrize("smallest", [1e-2, 1e-4, 1e-8])
def test_the_steps_take_every_singular_value_to_one(smallest):
    s = torch.logspace(math.log10(smallest), 0, 10_000, dtype=torch.float64)
    low = smallest
    factors = scalings(smallest, 1e-14)
    for a in factors:
        s = a * s * (3 - (a * s) ** 2) / 2
        ends = a * low * (3 - (a * low) ** 2) / 2
        low = ends
        assert s.min() >= ends * (1 - 1e-12)
        assert s.max() <= 1 + 1e-12
    assert (s - 1).abs().max() < 1e-13
    plain, steps = smallest, 0
    while 1 - plain > 1e-14:
        plain, steps = plain * (3 - plain * plain) / 2, steps + 1
    assert len(factors) < 0.7 * steps


@pytest.mark.parametrize(("c", "m"), SHAPES)
@pytest.mark.parametrize(
    ("matmul_dtype", "root_error", "gradient_error"),
    [(torch.float64, 1e-13, 1e-7), (torch.float32, 2e-6, 1e-3), (torch.bfloat16, 2e-2, 2e-1)],
)
def test_root_and_gradient(c, m, matmul_dtype, root_error, gradient_error):
    s = torch.logspace(0, -1.5, min(c, m - 1), dtype=torch.float64)
    x = centre(with_singular_values(c, m, s)).unsqueeze(0)
    g = torch.randn(1, c, c, dtype=torch.float64)
    given = x if matmul_dtype == torch.float64 else x.float()
    y, grad = backward(given, g, matmul_dtype)
    expected_y, expected = polar_reference(x, g)
    assert y.dtype == grad.dtype == given.dtype
    assert torch.equal(y, y.mT)
    assert relative(y, expected_y) < root_error
    assert relative(grad, expected) < gradient_error


@pytest.mark.parametrize(("exponent", "tolerance"), [(2, 1e-3), (3, 3e-3)])
def test_float32_is_better_than_its_gram_matrix(exponent, tolerance):
    x = centre(with_singular_values(64, 49, torch.logspace(0, -exponent, 48, dtype=torch.float64))).unsqueeze(0)
    g = torch.randn(1, 64, 64, dtype=torch.float64)
    expected = polar_reference(x, g)[1]
    ours = relative(backward(x.float(), g)[1], expected)
    given = x.float().requires_grad_()
    METHODS["svd"].of_features(given, alpha=0.5).backward(g.float())
    assert ours < tolerance
    assert exponent < 3 or ours < relative(given.grad, expected) / 10


@pytest.mark.parametrize(("allowed", "root_error", "gradient_error"), [("high", 2e-3, 0.1), ("medium", 2e-2, 0.3)])
def test_where_float32_products_are_allowed_in_less(allowed, root_error, gradient_error):
    """On CUDA that is TF32; on a CPU that can it is bfloat16 under 'medium', and elsewhere only the steps change."""
    x = centre(with_singular_values(64, 49, torch.logspace(0, -1.5, 48, dtype=torch.float64))).unsqueeze(0)
    g = torch.randn(1, 64, 64, dtype=torch.float64)
    expected_y, expected = polar_reference(x, g)
    try:
        torch.set_float32_matmul_precision(allowed)
        y, grad = backward(x.float(), g)
        fewer = steps_in(torch.float32)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert len(fewer) < len(steps_in(torch.float32)) < len(steps_in(torch.float64))
    assert relative(y, expected_y) < root_error
    assert relative(grad, expected) < gradient_error


@given(sizes, st.sampled_from(KINDS), st.integers(0, 2**31), st.sampled_from(DTYPES))
def test_awkward_matrices_stay_finite_and_bounded(size, kind, seed, matmul_dtype):
    generator = torch.Generator().manual_seed(seed)
    x = centre(awkward(kind, *size, generator))
    x = x if matmul_dtype == torch.float64 else x.float()
    g = torch.randn(2, size[0], size[0], generator=generator, dtype=torch.float64)
    y, grad = backward(x, g, matmul_dtype)
    expected = polar_reference(x.double(), g)[0]
    tolerance = {torch.bfloat16: 4e-2, torch.float32: 3e-5, torch.float64: 1e-6}[matmul_dtype]
    assert (y - expected).flatten(1).norm(dim=1).le(tolerance * x.flatten(1).norm(dim=1) + 1e-30).all()
    norms = grad.flatten(1).norm(dim=1), ((g + g.mT) / 2).flatten(1).norm(dim=1)
    assert torch.isfinite(grad).all()
    assert (norms[0] <= math.sqrt(2) * norms[1] * (1 + 5 * tolerance)).all()


@pytest.mark.parametrize(("c", "m"), [(5, 3), (3, 5), (4, 4)])
def test_gradcheck(c, m):
    x = torch.randn(2, c, m, dtype=torch.float64, requires_grad=True)
    assert gradcheck(polar_root, (x,))
    (first,) = torch.autograd.grad(polar_root(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        first.sum().backward()


@pytest.mark.parametrize("method", ["polar", "svdlyap"])
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_the_exact_root_in_single_precision_needs_no_eigensolver(method, scale, monkeypatch):
    x = scale * torch.randn(2, 12, 40)
    exact = covariance_sqrt(x, method)

    def refuse(*_):
        raise AssertionError("an eigensolver was called")

    monkeypatch.setattr(torch.linalg, "eigh", refuse)
    assert relative(covariance_sqrt(x, method, dtype=torch.float32), exact) < 1e-5
    assert relative(covariance_sqrt(x, method, dtype=torch.bfloat16), exact) < 1e-2
    with pytest.raises(AssertionError):
        covariance_sqrt(x, method)


def test_an_image_that_is_not_finite_is_alone():
    x = torch.randn(3, 6, 10)
    x[1, 2, 3] = torch.nan
    x.requires_grad_()
    y = covariance_sqrt(x, "polar", dtype=torch.float32)
    assert y[1].isnan().all()
    assert torch.isfinite(y[::2]).all()
    y[::2].sum().backward()
    assert torch.isfinite(x.grad[::2]).all()


def test_off_the_cpu_the_exact_root_runs_in_float32():
    polar, svdpade = METHODS["polar"], METHODS["svdpade"]
    gpu = torch.empty(2, 4, 9, device="meta")
    assert polar.precision(gpu, {}) == polar.precision(gpu.bfloat16(), {}) == torch.float32
    assert polar.precision(gpu.double(), {}) == torch.float64
    assert polar.precision(gpu, {"alpha": 0.3}) == torch.float64  # a power that is no root
    assert polar.precision(torch.empty(2, 4, 9), {}) == torch.float64
    assert svdpade.precision(gpu, {}) == torch.float64


def test_half_precision_only_for_roots_without_an_eigensolver():
    x = torch.randn(2, 8, 3, 3)
    pool = GlobalCovariancePool(8, "polar", reduce=None, dtype=torch.bfloat16)
    exact = GlobalCovariancePool(8, "polar", reduce=None)
    assert relative(pool(x).detach(), exact(x)) < 2e-2
    with pytest.raises(GCPError, match=r"precision of method 'isqrt' is one of float32, float64, not bfloat16"):
        pool.method = "isqrt"
    assert pool.method == "polar"
    with pytest.raises(GCPError, match=r"'svdpade'.*not float16"):
        GlobalCovariancePool(8, "svdpade", dtype=torch.float16)
    with pytest.raises(GCPError, match=r"given matrix is one of float32, float64"):
        matrix_sqrt(torch.eye(3), "polar", dtype=torch.bfloat16)
    assert torch.isfinite(covariance_sqrt(x.flatten(2), "polar", alpha=0.3, dtype=torch.bfloat16)).all()


@pytest.mark.slow
def test_compiles():
    torch.compiler.reset()
    pool = GlobalCovariancePool(8, "polar", reduce=None, dtype=torch.float32)
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    y = compiled(x)
    assert torch.allclose(y, pool(x), atol=1e-5)
    y.sum().backward()
    ours = x.grad
    x.grad = None
    pool(x).sum().backward()
    assert torch.allclose(ours, x.grad, atol=1e-4)
