"""Dropout of channels before the covariance: the probability by its formula, the mask, and evaluation."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from timm_gcp import GlobalCovariancePool
from timm_gcp.channel_dropout import AdaptiveChannelDropout


def maps(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype).relu()


def test_probability_by_its_formula():
    layer = AdaptiveChannelDropout().double()
    layer.conv.weight.data.copy_(torch.tensor([0.1, -0.3, 0.2]))
    x = maps(4, 32, 5, 6)
    x = x * torch.linspace(0.1, 2, 32, dtype=torch.float64)[:, None, None] ** 4
    first, middle, last = layer.conv.weight.flatten().tolist()
    mean = x.mean((2, 3))
    padded = torch.nn.functional.pad(mean, (1, 1))
    scores = first * padded[:, :-2] + middle * padded[:, 1:-1] + last * padded[:, 2:]
    importance = scores.exp() / scores.exp().sum(1, keepdim=True)
    assert torch.allclose(layer.importance(x), importance, rtol=1e-12)
    cosines = []
    for each, weight in zip(x, importance, strict=True):
        row_sums = torch.cov(each.flatten(1), correction=0).sum(1)
        cosines.append(weight @ row_sums / (weight.norm() * row_sums.norm()))
    expected = 1 - 10 / math.log2(32) * torch.stack(cosines).mean()
    assert 0.05 < expected < 0.85
    for scale in (1e-12, 1.0, 1e12):
        assert torch.allclose(layer.probability(scale * x, importance), expected, rtol=1e-10)


def test_correlated_channels_are_kept_and_unlike_channels_are_dropped():
    layer = AdaptiveChannelDropout()
    alike = maps(3, 1, 6, 6).expand(3, 16, 6, 6)
    assert layer.probability(alike, torch.full((3, 16), 1 / 16.0)) == 0
    opposed = torch.cat([alike[:, :8], -alike[:, 8:]], 1)
    assert layer.probability(opposed, torch.full((3, 16), 1 / 16.0)) == 0.9


def test_channels_are_dropped_whole_and_the_others_scaled(monkeypatch):
    layer = AdaptiveChannelDropout()
    monkeypatch.setattr(layer, "probability", lambda *_: torch.tensor(0.25))
    x = torch.rand(200, 30, 2, 2) + 0.5
    factor = layer(x) / (x * (1 + layer.importance(x))[..., None, None])
    dropped = factor[:, :, 0, 0] == 0
    assert (factor == factor[:, :, :1, :1]).all() or torch.allclose(factor, factor[:, :, :1, :1].expand_as(factor))
    assert torch.allclose(factor[:, :, 0, 0][~dropped], torch.tensor(1 / 0.75))
    assert abs(float(dropped.float().mean()) - 0.25) < 4 * (0.25 * 0.75 / dropped.numel()) ** 0.5
    assert len(torch.unique(dropped, dim=0)) > 1  # each image drops its own channels


def test_dropcov_estimates_the_covariance_of_unlike_channels(monkeypatch):
    """Off the diagonal the covariance of kept channels, divided by (1 − ρ)², is the covariance on average."""
    pool = GlobalCovariancePool(6, "cov", None, channel_dropout=0.5).double()
    x = torch.randn(1, 6, 3, 3, dtype=torch.float64)
    drawn = pool(x.expand(20000, -1, -1, -1)).detach()
    exact = pool.eval()(x)[0].detach()
    rows, columns = torch.triu_indices(6, 6)
    error = (drawn.mean(0) - torch.where(rows == columns, 2, 1) * exact) / drawn.std(0) * len(drawn) ** 0.5
    assert error.abs().max() < 4.5


def test_gradient(monkeypatch):
    layer = AdaptiveChannelDropout().double()
    monkeypatch.setattr(layer, "probability", lambda *_: torch.tensor(0.4))  # it has no gradient of its own

    def seeded(x, weight):
        torch.manual_seed(0)
        return torch.func.functional_call(layer, {"conv.weight": weight}, (x,))

    assert gradcheck(seeded, (maps(2, 6, 2, 2).requires_grad_(), layer.conv.weight.detach().clone().requires_grad_()))


@pytest.mark.parametrize("value", [0.3, "adaptive"])
def test_evaluation_drops_nothing(value):
    x = torch.randn(2, 8, 4, 4)
    plain = GlobalCovariancePool(8, "isqrt", None).eval()
    pool = GlobalCovariancePool(8, "isqrt", None, channel_dropout=value)
    assert not torch.allclose(pool(x), plain(x))
    assert torch.equal(pool.eval()(x), plain(x))


@pytest.mark.parametrize("value", [0.3, "adaptive"])
def test_the_generator_of_torch_decides(value):
    x = torch.randn(4, 32, 4, 4) * torch.linspace(0, 2, 32)[:, None, None] ** 4  # so that the adaptive one is not zero
    pool = GlobalCovariancePool(32, "isqrt", None, channel_dropout=value)
    state = torch.get_rng_state()
    first, second = pool(x), pool(x)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(pool(x), first)
    assert torch.equal(pool(x), second)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    pool = GlobalCovariancePool(8, "isqrt", 6, channel_dropout="adaptive")
    x = torch.randn(3, 8, 5, 5, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        y = pool(x)
    y.float().square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(pool.channel_dropout.conv.weight.grad).all()


def test_awkward_features():
    pool = GlobalCovariancePool(5, "isqrt", None, channel_dropout="adaptive")
    for x in (torch.zeros(2, 5, 3, 3), torch.ones(2, 5, 1, 1), 1e15 * torch.randn(2, 5, 3, 3), torch.randn(2, 5, 3, 3)):
        x.requires_grad_()
        y = pool(x)
        y.sum().backward()
        assert torch.isfinite(y).all()
        assert torch.isfinite(x.grad).all()
    assert torch.isfinite(GlobalCovariancePool(1, "isqrt", None, channel_dropout="adaptive")(maps(2, 1, 3, 3))).all()
    x = torch.randn(3, 5, 3, 3)
    x[1, 2, 0, 0] = torch.nan
    assert torch.isfinite(pool(x)[::2]).all()
