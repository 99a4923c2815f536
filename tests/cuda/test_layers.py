"""Values, gradients, autocast and compilation of the layers on a CUDA device, against the CPU in float64."""

import pytest
import torch

from tests.support.reference import KINDS, awkward, polar_reference, relative
from timm_gcp import METHODS, GlobalCovariancePool, covariance_sqrt, pool_features
from timm_gcp.spectral.covariance import centre
from timm_gcp.spectral.eigensolvers import SOLVERS, batched_eigh

SHAPES = [(32, 13), (16, 40)]
EXACT = [name for name in ("polar", "svdlyap") if name in METHODS]
# An iteration that stops before it has converged, or a logarithm of tiny eigenvalues, enlarges rounding in float32.
TOLERANCE = {torch.float32: (2e-4, 5e-3), torch.float64: (1e-9, 1e-6)}


def _with_gradient(x, device, method, dtype):
    given = x.detach().to(device).clone().requires_grad_()
    out = pool_features(given, method, dtype=dtype)
    weights = torch.linspace(-1, 1, out.shape[-1], dtype=torch.float64).to(device, out.dtype)
    out.backward(weights.expand_as(out))
    return out.detach().cpu(), given.grad.cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_what_the_cpu_gives(method, dtype):
    for c, m in SHAPES:
        x = torch.randn(3, c, m, dtype=torch.float64).relu()
        expected, expected_grad = _with_gradient(x, "cpu", method, torch.float64)
        given = x if dtype == torch.float64 else x.float()
        out, grad = _with_gradient(given, "cuda", method, None if dtype == torch.float32 else dtype)
        value, gradient = TOLERANCE[dtype]
        assert out.dtype == grad.dtype == given.dtype
        assert relative(out, expected) < value, (c, m)
        assert relative(grad, expected_grad) < gradient, (c, m)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_exact_roots_of_awkward_features(method, kind, dtype):
    x = awkward(kind, 24, 10, torch.Generator().manual_seed(0))
    g = torch.randn(2, 24, 24, dtype=torch.float64)
    expected, expected_grad = polar_reference(centre(x), g)
    given = x.to("cuda", dtype).requires_grad_()
    root = covariance_sqrt(given, method, dtype=dtype)
    root.backward(g.to("cuda", dtype))
    size = expected.norm().clamp_min(1e-30)
    assert float((root.detach().cpu().double() - expected).norm() / size) < (1e-9 if dtype == torch.float64 else 1e-4)
    assert torch.isfinite(given.grad).all()
    assert float(given.grad.norm()) <= 2**0.5 * float(g.norm()) * 1.01
    if dtype == torch.float64 and kind in ("plain", "dead_channels", "repeated_channels"):
        # The chain through centring is linear and orthogonal: the reference's gradient is centred as ours is.
        reference = centre(expected_grad) if expected_grad.shape == given.shape else expected_grad
        assert relative(given.grad.cpu(), reference) < 1e-5


@pytest.mark.parametrize("scale", [1e-15, 1e15])
@pytest.mark.parametrize("method", ["svdpade", "isqrt", "polar", "svdtaylor"])
def test_scales(method, scale):
    x = torch.randn(2, 16, 30, device="cuda")
    out = pool_features(x, method)
    assert relative(pool_features(x * scale, method).cpu() / scale, out.cpu()) < 1e-4


@pytest.mark.parametrize("solver", [s for s in SOLVERS if s.available()], ids=lambda s: s.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("batch", "n"), [(5, 12), (3, 49), (2, 196)])
def test_every_eigensolver(solver, dtype, batch, n):
    x = torch.randn(batch, n, 2 * n, dtype=dtype, device="cuda")
    a = x @ x.mT
    values, vectors = solver.solve(a)
    assert values.device.type == "cuda"
    assert values.dtype == vectors.dtype == dtype
    assert (values.diff(dim=-1) >= 0).all()
    bound = 1e-3 if dtype == torch.float32 else 1e-11  # cuSOLVER's Jacobi method leaves 3e-4 in float32
    assert relative((vectors * values.unsqueeze(-2) @ vectors.mT).cpu(), a.cpu()) < bound


def test_the_choice_of_a_solver_leaves_random_numbers_alone():
    torch.cuda.manual_seed(1)
    expected = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(1)
    batched_eigh(torch.eye(11, device="cuda").expand(4, 11, 11).contiguous())
    assert torch.equal(torch.rand(3, device="cuda"), expected)


def test_solvers_run_on_the_current_stream():
    """A solver on another stream would read a matrix before it has been computed."""
    stream = torch.cuda.Stream()
    x = torch.randn(64, 49, 400, device="cuda", dtype=torch.float64)
    for solver in (s for s in SOLVERS if s.available()):
        with torch.cuda.stream(stream):
            a = x
            for _ in range(20):
                a = (a @ a.mT @ x) / 400**2
            a = a @ a.mT
            values, vectors = solver.solve(a)
            rebuilt = vectors * values.unsqueeze(-2) @ vectors.mT
        stream.synchronize()
        assert relative(rebuilt.cpu(), a.cpu()) < 1e-10, solver.name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_autocast(method, dtype):
    x = torch.randn(4, 16, 5, 5, device="cuda", requires_grad=True)
    pool = GlobalCovariancePool(16, method=method, reduce=8).cuda()
    with torch.autocast("cuda", dtype):
        out = pool(x)
    out.float().square().sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("method", ["svdpade", "isqrt", "polar", "svdtaylor", "cov", "corr"])
def test_compiled(method):
    torch.compiler.reset()
    x = torch.randn(4, 12, 7, 7, device="cuda")
    pool = GlobalCovariancePool(12, method=method, reduce=None).cuda()
    compiled = torch.compile(pool, dynamic=False)
    grads = []
    for run in (pool, compiled):
        given = x.clone().requires_grad_()
        out = run(given)
        out.sum().backward()
        grads.append((out.detach().cpu(), given.grad.cpu()))
    (value, grad), (compiled_value, compiled_grad) = grads
    assert relative(compiled_value, value) < 1e-4
    assert relative(compiled_grad, grad) < 1e-3


def test_rules_are_compiled_and_none_fails(caplog):
    x = torch.randn(8, 32, 49, device="cuda", requires_grad=True)
    for method in METHODS:
        pool_features(x, method).sum().backward()
    assert not [record.getMessage() for record in caplog.records if "uncompiled" in record.getMessage()]
    assert not [record.getMessage() for record in caplog.records if "does not work here" in record.getMessage()]
