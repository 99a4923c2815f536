"""The buffer that is kept from step to step."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch._subclasses import FakeTensorMode

from timm_gcp import pool_features
from timm_gcp.spectral.scratch import plus_transpose, release


@pytest.fixture(autouse=True)
def empty():
    release()
    yield
    release()


def test_values_at_shapes_and_dtypes_that_change():
    for shape, dtype in (((2, 3, 3), torch.float32), ((5, 5), torch.float32), ((4, 2, 2), torch.float64)):
        g = torch.randn(shape, dtype=dtype)
        assert torch.equal(plus_transpose(g), g + g.mT)
    g = torch.randn(3, 2, 2).mT
    assert torch.equal(plus_transpose(g), g + g.mT)


def test_a_smaller_batch_uses_what_is_there():
    large = plus_transpose(torch.ones(4, 3, 3))
    small = plus_transpose(torch.ones(1, 3, 3))
    assert small.data_ptr() == large.data_ptr()


def test_each_thread_has_its_own():
    here = plus_transpose(torch.ones(3, 3))
    with ThreadPoolExecutor(1) as other:
        other.submit(plus_transpose, torch.zeros(3, 3)).result()
    assert torch.equal(here, torch.full((3, 3), 2.0))


def test_no_buffer_for_tensors_without_memory():
    with FakeTensorMode() as mode:
        assert plus_transpose(mode.from_tensor(torch.ones(3, 3))).shape == (3, 3)
    assert torch.equal(plus_transpose(torch.ones(2, 2)), torch.full((2, 2), 2.0))


@pytest.mark.parametrize("method", ["isqrt", "svdpade"])
def test_gradients_taken_before_are_not_overwritten(method):
    def gradient(seed):
        x = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(seed)).relu().requires_grad_()
        pool_features(x, method).sum().backward()
        return x.grad

    first = gradient(0)
    kept = first.clone()
    gradient(1)
    assert torch.equal(first, kept)
