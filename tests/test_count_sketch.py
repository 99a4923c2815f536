"""The count sketch of triangles: a fixed sparse linear map whose inner products estimate the Frobenius product."""

import subprocess
import sys

import pytest
import torch
from torch.autograd import gradcheck

from timm_gcp import GCPError
from timm_gcp.count_sketch import CountSketch
from timm_gcp.spectral.covariance import triangle


def matrix_of(sketch, length):
    """The sketch as a dense matrix ``[N, D]``."""
    return sketch(torch.eye(length, dtype=torch.float64)).T


@pytest.mark.parametrize(("channels", "groups", "size"), [(4, 1, 3), (4, 1, 10), (5, 3, 7), (1, 2, 1), (6, 1, 20)])
def test_every_entry_is_in_one_bucket_with_a_sign_and_its_weight(channels, groups, size):
    length = groups * channels * (channels + 1) // 2
    matrix = matrix_of(CountSketch(channels, groups, size), length)
    assert matrix.shape == (size, length)
    entries = (matrix != 0).sum(1)
    assert int(entries.max() - entries.min()) <= 1
    assert (entries >= 1).all()
    assert ((matrix != 0).sum(0) == 1).all()
    rows, columns = torch.triu_indices(channels, channels)
    weights = torch.where(rows == columns, 1.0, 2.0).double().sqrt().repeat(groups)
    assert torch.allclose(matrix.abs().sum(0), weights, rtol=1e-15)


def test_linear_with_its_own_gradient():
    sketch = CountSketch(5, 2, 7)
    t, u = torch.randn(2, 3, 30, dtype=torch.float64)
    assert torch.allclose(sketch(2 * t - u), 2 * sketch(t) - sketch(u), atol=1e-14)
    assert torch.allclose(sketch(t), t @ matrix_of(sketch, 30).T, atol=1e-14)
    assert gradcheck(sketch, (t.requires_grad_(),))


def test_inner_products_are_those_of_the_matrices_on_average_over_draws():
    y, z = torch.randn(2, 6, 9, dtype=torch.float64)
    y, z = y @ y.T, z @ z.T
    t, u = triangle(y), triangle(z)
    exact = float((y * z).sum())
    draws = 400
    for size in (5, 13):
        products = torch.stack([sketch(t) @ sketch(u) for sketch in (CountSketch(6, 1, size, s) for s in range(draws))])
        variance = float(products.var())
        assert abs(float(products.mean()) - exact) < 4 * (variance / draws) ** 0.5
        assert variance < float((y.square().sum() * z.square().sum() + exact**2) / size)


def test_a_sketch_of_full_length_keeps_inner_products():
    y = torch.randn(5, 4, 4, dtype=torch.float64)
    y = y + y.mT
    sketched = CountSketch(4, 1, 10)(triangle(y))
    assert torch.allclose(sketched @ sketched.T, y.flatten(1) @ y.flatten(1).T, atol=1e-12)


def test_draws_are_the_same_in_every_release():
    assert CountSketch(3, 1, 4).index.tolist() == [2, 4, 0, 1, 5, 3]
    assert CountSketch(3, 1, 4).weight_code.tolist() == [2, 2, -1, 2, 1, 1]


@pytest.mark.slow
def test_draws_are_the_same_in_every_process():
    script = (
        "import torch; torch.manual_seed(5); from timm_gcp.count_sketch import CountSketch;"
        "print(CountSketch(3, 1, 4)(torch.arange(1, 7.0)).tolist())"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(CountSketch(3, 1, 4)(torch.arange(1, 7.0)).tolist())


def test_precision():
    sketch = CountSketch(20, 1, 30).half()
    t = torch.randn(4, 210)
    assert torch.equal(sketch(t), CountSketch(20, 1, 30)(t))
    assert sketch(t.half()).dtype == torch.float16
    assert torch.allclose(sketch(t.half()).float(), sketch(t), atol=2e-2)
    assert sketch(torch.randn(0, 210)).shape == (0, 30)


def test_refused():
    with pytest.raises(GCPError, match="longer than the 10 numbers"):
        CountSketch(4, 1, 11)
