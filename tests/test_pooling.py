"""The pooling layer as a module: formats, precision, switching."""

import copy
import pickle

import pytest
import torch
from torch.autograd import gradcheck

from tests.support.tools import slow_but
from timm_gcp import METHODS, GCPError, GlobalCovariancePool, covariance_sqrt
from timm_gcp.pooling import find_pools
from timm_gcp.spectral.covariance import triangle

# Methods without an eigensolver.
ONE_GRAPH = ["isqrt", "mpa", "mtp", "cov", "maxexp", "bdc", "bcnn", "cbp"]
# Every method, and arguments that take another branch than the defaults.
ROWS = [*((name, {}) for name in METHODS), ("svdpade", {"alpha": 0.7}), ("svdtrunc", {"clip": 10.0})]


def pass_through(pool, x, g=None):
    """Output and gradients of the input and the parameters, in a list."""
    x = x.clone().requires_grad_()
    y = pool(x)
    inputs = [x, *pool.parameters()]
    return [y.detach(), *torch.autograd.grad(y, inputs, torch.ones_like(y) if g is None else g)]


def assert_same(given, expected, tolerance=1e-5):
    for a, b in zip(given, expected, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_is_reduction_then_root_then_triangle():
    pool = GlobalCovariancePool(12, "polar", reduce=5).eval()
    x = torch.randn(2, 12, 4, 3)
    expected = triangle(covariance_sqrt(pool.reduce(x).flatten(2), "polar"))
    assert torch.equal(pool(x), expected)
    assert pool(x).shape == (2, pool.out_features) == (2, 15)


@pytest.mark.parametrize("reduce", [None, 0])
def test_no_reduction_leaves_the_channels_as_they_are(reduce):
    pool = GlobalCovariancePool(6, "svd", reduce=reduce)
    assert not list(pool.parameters())
    x = torch.randn(2, 6, 3, 3)
    assert torch.equal(pool(x), triangle(covariance_sqrt(x.flatten(2), "svd")))


@pytest.mark.parametrize("reduce", [None, 4])
def test_formats_agree(reduce):
    pool = GlobalCovariancePool(6, reduce=reduce).eval()
    x = torch.randn(2, 6, 3, 5)
    expected = pool(x)
    for input_fmt, given in (("NHWC", x.permute(0, 2, 3, 1)), ("NLC", x.flatten(2).mT)):
        other = GlobalCovariancePool(6, reduce=reduce, input_fmt=input_fmt).eval()
        other.load_state_dict(pool.state_dict())
        assert torch.allclose(other(given), expected, atol=1e-5)


def test_gradcheck_through_the_layer():
    pool = GlobalCovariancePool(5, "polar", reduce=3).double()
    x = torch.randn(2, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(pool, (x,))
    pool(x).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in pool.parameters())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(method, dtype):
    pool = GlobalCovariancePool(8, method, reduce=6)
    x = torch.randn(3, 8, 5, 5, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        y = pool(x)
    y.float().square().sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()
    with torch.no_grad():
        assert torch.allclose(y.float(), pool(x), atol=0.1)


def test_method_switches_without_parameters():
    pool = GlobalCovariancePool(8, "isqrt", reduce=None, method_args={"iterations": 30})
    x = torch.randn(2, 8, 6, 6)
    thirty = pool(x)
    pool.method = "svdpade"
    assert pool.method_args == {}
    assert torch.allclose(pool(x), thirty, atol=1e-4)
    pool.method = "isqrt"
    assert pool.method_args == {"iterations": 30}
    assert torch.equal(pool(x), thirty)


def test_precision_is_the_methods_own_or_the_given_one():
    x = torch.randn(2, 8, 3, 3)
    exact = GlobalCovariancePool(8, "polar", reduce=None)(x)
    single = GlobalCovariancePool(8, "polar", reduce=None, dtype=torch.float32)(x)
    assert not torch.equal(exact, single)
    assert torch.allclose(exact, single, atol=1e-3)


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.of_sigma is not None])
def test_one_position_and_zeros(method):
    for x in (torch.randn(2, 6, 1, 1), torch.zeros(2, 6, 4, 4)):
        x.requires_grad_()
        y = GlobalCovariancePool(6, method, reduce=None)(x)
        y.sum().backward()
        assert (y == 0).all()
        assert torch.isfinite(x.grad).all()


def test_channels_last_and_non_contiguous():
    pool = GlobalCovariancePool(6, reduce=4).eval()
    x = torch.randn(2, 6, 5, 7)
    y = pool(x)
    assert torch.allclose(pool(x.contiguous(memory_format=torch.channels_last)), y, atol=1e-5)
    assert torch.allclose(pool(x.mT.contiguous().mT), y, atol=1e-5)


def test_copies_and_state_dict():
    pool = GlobalCovariancePool(6, "isqrt", reduce=4, method_args={"iterations": 3}).eval()
    x = torch.randn(2, 6, 5, 5)
    for other in (copy.deepcopy(pool), pickle.loads(pickle.dumps(pool))):
        assert torch.equal(other(x), pool(x))
        assert other.method == "isqrt"
    fresh = GlobalCovariancePool(6, "svd", reduce=4)
    assert not any(fresh.load_state_dict(pool.state_dict()))


# Compiled, traced, exported


@pytest.fixture
def _fresh_compiler():
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("method", slow_but({"isqrt"}, ONE_GRAPH))
def test_compiles_into_one_graph_with_its_backward(method):
    pool = GlobalCovariancePool(8, method, reduce=5)
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    x, g = torch.randn(3, 8, 4, 4), torch.randn(3, pool.out_features)
    assert_same(pass_through(compiled, x, g), pass_through(pool, x, g))


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("method", slow_but({"svdpade", "polar"}, [name for name in METHODS if name not in ONE_GRAPH]))
def test_eigensolvers_break_the_graph_at_most_once(method):
    pool = GlobalCovariancePool(8, method, reduce=5)
    assert torch._dynamo.explain(pool)(torch.randn(2, 8, 4, 4)).graph_break_count <= 1


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("method", ["isqrt", "svdpade"])
def test_compiled_for_many_sizes(method):
    pool = GlobalCovariancePool(8, method, reduce=5)
    compiled = torch.compile(pool, fullgraph=True, backend="eager")
    for batch, height, width in [(2, 4, 4), (3, 4, 4), (3, 5, 6), (1, 2, 2), (5, 7, 3), (4, 1, 3)]:
        x = torch.randn(batch, 8, height, width)
        assert_same(pass_through(compiled, x), pass_through(pool, x))


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("method", ["isqrt", "polar"])
def test_compiled_with_chunks_and_checkpoints(method):
    pool = GlobalCovariancePool(8, method, reduce=5, chunk_size=2)
    pool.set_grad_checkpointing()
    compiled = torch.compile(pool, fullgraph=True, backend="eager")  # torch 2.6 cannot partition for aot_eager
    x = torch.randn(3, 8, 4, 4)
    assert_same(pass_through(compiled, x), pass_through(pool, x))


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_isolates_an_image_that_is_not_finite():
    pool = GlobalCovariancePool(5, "polar", reduce=None)
    x = torch.randn(3, 5, 4, 4)
    expected = pool(x)
    x[1, 2, 0, 0] = torch.nan
    y = torch.compile(pool, backend="aot_eager")(x)
    assert y[1].isnan().all()
    assert torch.allclose(y[::2], expected[::2], atol=1e-6)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.trace")
@pytest.mark.parametrize(("method", "args"), ROWS)
def test_traces(method, args):
    pool = GlobalCovariancePool(8, method, reduce=5, method_args=args).eval()
    traced = torch.jit.trace(pool, torch.randn(2, 8, 4, 4))  # traces twice and compares
    for size in ((4, 4), (3, 5), (6, 2)):
        x = torch.randn(5, 8, *size)
        assert torch.allclose(traced(x), pool(x), atol=1e-5)


@pytest.mark.parametrize(
    ("method", "args"),
    [pytest.param(*row, marks=() if row[0] in ("isqrt", "svdpade", "polar") else pytest.mark.slow) for row in ROWS],
)
def test_exports_with_a_free_batch(method, args):
    pool = GlobalCovariancePool(8, method, reduce=5, method_args=args).eval()
    free = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(pool, (torch.randn(2, 8, 4, 4),), dynamic_shapes=free, strict=False).module()
    for batch in (2, 5):
        x = torch.randn(batch, 8, 4, 4)
        assert torch.allclose(exported(x), pool(x), atol=1e-5)


# Memory


@pytest.mark.parametrize("method", METHODS)
def test_chunks_and_checkpoints_change_nothing(method):
    x = torch.randn(5, 8, 4, 4)
    plain = GlobalCovariancePool(8, method, reduce=5)
    state = copy.deepcopy(plain.state_dict())
    expected = pass_through(plain, x)
    for chunk_size in (None, 2, 5, 9):
        for checkpointing in (False, True):
            pool = GlobalCovariancePool(8, method, reduce=5, chunk_size=chunk_size)
            pool.load_state_dict(state)
            pool.set_grad_checkpointing(checkpointing)
            assert_same(pass_through(pool, x), expected)
            # Batch norm has seen the batch once.
            assert all(torch.equal(a, b) for a, b in zip(pool.buffers(), plain.buffers(), strict=True))


def kept_bytes(pool, x):
    """What autograd keeps for the backward, each storage once."""
    kept = {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        pool(x)
    return sum(t.untyped_storage().nbytes() for t in kept.values())


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("method", ["svdpade", "isqrt"])
def test_checkpoints_keep_the_input_only(method, chunk_size):
    x = torch.randn(4, 16, 6, 6, requires_grad=True)
    pool = GlobalCovariancePool(16, method, reduce=None, chunk_size=chunk_size)
    everything = kept_bytes(pool, x)
    pool.set_grad_checkpointing()
    assert kept_bytes(pool, x) == x.untyped_storage().nbytes()
    assert everything >= 1.4 * x.untyped_storage().nbytes()
    pool.set_grad_checkpointing(False)
    assert kept_bytes(pool, x) == everything


def test_a_switch_before_the_backward_does_not_reach_a_checkpoint():
    x = torch.randn(2, 6, 4, 4)
    pool = GlobalCovariancePool(6, "isqrt", reduce=None, method_args={"iterations": 2})
    expected = pass_through(pool, x)[1]
    pool.set_grad_checkpointing()
    x.requires_grad_()
    y = pool(x)
    pool.method = "polar"
    y.sum().backward()
    assert torch.equal(x.grad, expected)


def test_second_derivative_is_refused_under_checkpoints():
    pool = GlobalCovariancePool(6, "polar", reduce=None)
    pool.set_grad_checkpointing()
    x = torch.randn(2, 6, 4, 4, requires_grad=True)
    (first,) = torch.autograd.grad(pool(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        first.sum().backward()


def test_no_images():
    pool = GlobalCovariancePool(6, "isqrt", reduce=None, chunk_size=2)
    assert pool(torch.randn(0, 6, 4, 4)).shape == (0, 21)


def test_find_pools_sees_through_wrappers():
    pool = GlobalCovariancePool(6, reduce=None)
    assert find_pools(torch.nn.DataParallel(torch.nn.Sequential(torch.nn.ReLU(), pool))) == [pool]


def test_errors():
    with pytest.raises(GCPError, match="did you mean isqrt"):
        GlobalCovariancePool(6, "isqr")
    with pytest.raises(GCPError, match="takes: iterations"):
        GlobalCovariancePool(6, "isqrt", method_args={"degree": 3})
    with pytest.raises(GCPError, match="NCHW, NHWC, NLC"):
        GlobalCovariancePool(6, input_fmt="CHW")
    pool = GlobalCovariancePool(6)
    for size in (0, -1, True, 2.0, "4"):
        with pytest.raises(GCPError, match="chunk_size is a whole number"):
            GlobalCovariancePool(6, chunk_size=size)
        with pytest.raises(GCPError, match="chunk_size is a whole number"):
            pool.chunk_size = size
    with pytest.raises(GCPError, match="did you mean polar"):
        pool.method = "pola"
    assert pool.method == "svdpade"
    with pytest.raises(GCPError, match=r"6 channels, not a tensor of shape \[2, 5, 3, 3\]"):
        pool(torch.randn(2, 5, 3, 3))
