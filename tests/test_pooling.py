"""The pooling layer as a module: formats, precision, switching."""

import copy
import pickle

import pytest
import torch
from torch.autograd import gradcheck

from timm_gcp import METHODS, GCPError, GlobalCovariancePool, covariance_sqrt
from timm_gcp.pooling import find_pools
from timm_gcp.spectral.covariance import triangle


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
    with pytest.raises(GCPError, match="did you mean polar"):
        pool.method = "pola"
    assert pool.method == "svdpade"
    with pytest.raises(GCPError, match=r"6 channels, not a tensor of shape \[2, 5, 3, 3\]"):
        pool(torch.randn(2, 5, 3, 3))
