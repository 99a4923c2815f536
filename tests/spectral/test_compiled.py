"""Gradients of every method under ``torch.compile``: torch 2.11 gave zeros for results of operations in place."""

import pytest
import torch

from tests.support.reference import relative
from timm_gcp import METHODS, pool_features
from timm_gcp.spectral.newton_schulz import newton_schulz_eigenfree


def _gradient(function, x):
    given = x.clone().requires_grad_()
    out = function(given)
    (out * torch.linspace(0, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return out.detach(), given.grad


@pytest.mark.parametrize("positions", [5, 30])
@pytest.mark.parametrize("method", METHODS)
def test_value_and_gradient(method, positions):
    torch.compiler.reset()
    x = torch.randn(2, 8, positions)
    compiled = torch.compile(lambda x: pool_features(x, method), backend="aot_eager", dynamic=False)
    (value, gradient), (expected, expected_gradient) = (
        _gradient(compiled, x),
        _gradient(lambda x: pool_features(x, method), x),
    )
    assert relative(value, expected) < 1e-5
    assert expected_gradient.abs().sum() > 0
    assert relative(gradient, expected_gradient) < 1e-4


@pytest.mark.parametrize("positions", [5, 30])
def test_the_iteration_that_runs_on_a_gpu(positions):
    torch.compiler.reset()
    x = torch.randn(2, 8, positions)
    compiled = torch.compile(lambda x: newton_schulz_eigenfree(x, 5), backend="aot_eager", dynamic=False)
    found, expected = _gradient(compiled, x), _gradient(lambda x: newton_schulz_eigenfree(x, 5), x)
    assert relative(found[0], expected[0]) < 1e-5
    assert relative(found[1], expected[1]) < 1e-4
