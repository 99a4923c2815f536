"""Arguments of the public functions: the unit of a clip, and input that is not a dense floating-point tensor."""

import numpy as np
import pytest
import torch

from timm_gcp import GCPError, GlobalCovariancePool, covariance_sqrt, matrix_sqrt
from timm_gcp.functional import pool_features
from timm_gcp.methods import METHODS, get_method


def off_diagonal_rule(scale, clip, gap=6e-12):
    """F of the pair (0.6, 0.6 − gap) · scale, by the public function of a matrix."""
    sigma = (torch.diag(torch.tensor([0.6, 0.6 - gap], dtype=torch.float64)) * scale).requires_grad_()
    weight = torch.tensor([[0.0, 0.5], [0.5, 0.0]], dtype=torch.float64)
    (matrix_sqrt(sigma, "svdtrunc", clip=clip) * weight).sum().backward()
    return float(sigma.grad[0, 1]) * 2


def test_the_clip_of_svdtrunc_is_in_units_of_sigma():
    """The golden pair: K = 1/6e-12 is clipped at 1e10, in units of the matrix that was given."""
    expected = (0.6**0.5 - (0.6 - 6e-12) ** 0.5) * 1e10
    assert off_diagonal_rule(1.0, 1e10) == pytest.approx(expected, rel=1e-4)
    # Where nothing reaches the clip, the gradient is that of the exact root.
    assert off_diagonal_rule(1.0, 1e13) == pytest.approx(0.5 / 0.6**0.5, rel=1e-6)


@pytest.mark.parametrize("power", [-20, -10, 10, 20])
def test_the_clip_at_other_scales(power):
    """Σ → cΣ with the clip divided by c gives the same function: its gradient is divided by √c."""
    c = 2.0**power
    assert off_diagonal_rule(c, 1e10 / c) == pytest.approx(off_diagonal_rule(1.0, 1e10) / c**0.5, rel=1e-9)
    # A clip that stays as it is bites at another place.
    assert off_diagonal_rule(c, 1e10) != pytest.approx(off_diagonal_rule(1.0, 1e10) / c**0.5, rel=0.5)


@pytest.mark.parametrize("power", [-20, 0, 20])
@pytest.mark.parametrize("function", [covariance_sqrt, pool_features])
def test_the_clip_from_features(function, power):
    x = torch.randn(2, 6, 9, dtype=torch.float64)
    c = 2.0**power

    def gradient(scale, clip):
        leaf = (x * scale).requires_grad_()
        out = function(leaf, "svdtrunc", clip=clip)
        (out * torch.arange(1.0, 1 + out.shape[-1], dtype=out.dtype)).sum().backward()
        return leaf.grad

    torch.testing.assert_close(gradient(c, 2.0 / c**2), gradient(1.0, 2.0))
    assert not torch.allclose(gradient(1.0, 2.0), gradient(1.0, 1e10))  # the clip bites


# svdtrunc has the unit tested above; gaussian is not homogeneous.
WITHOUT_UNIT = [name for name, row in METHODS.items() if row.defaults and (name == "logm" or not row.takes_unit)]


@pytest.mark.parametrize("name", WITHOUT_UNIT)
def test_every_other_argument_has_no_unit(name):
    """Scaling the features by a power of two scales the output of a homogeneous method, whatever its arguments."""
    row = METHODS[name]
    x = torch.randn(2, 6, 9, dtype=torch.float64)
    for argument, default in row.defaults.items():
        args = {argument: max(1, default // 2) if isinstance(default, int) else default / 2}
        out, scaled = (pool_features(x * c, name, **args) for c in (1.0, 2.0**20))
        if name == "logm":  # log(c²Σ) = log Σ + 2 log c · I, whatever the share
            difference = scaled - out
            assert difference.abs().max() == pytest.approx(40 * np.log(2), rel=1e-6)
            continue
        torch.testing.assert_close(scaled, out * 2.0 ** (20 * row.degree(**args)), rtol=1e-4, atol=0)


MISTAKES = {
    "numpy": (np.ones((2, 3, 4), np.float32), r"torch\.from_numpy"),
    "list": ([[1.0, 2.0], [2.0, 1.0]], r"torch\.as_tensor"),
    "None": (None, r"torch\.as_tensor"),
    "sparse": (torch.eye(3).to_sparse(), r"to_dense"),
    "sparse rows": (torch.eye(3).to_sparse_csr(), r"to_dense"),
    "integers": (torch.ones(3, 3, dtype=torch.int64), r"x\.float\(\)"),
    "booleans": (torch.ones(3, 3, dtype=torch.bool), r"x\.float\(\)"),
    "complex": (torch.ones(3, 3, dtype=torch.complex64), r"complex64"),
    "vector": (torch.ones(3), r"shape \[3\]"),
    "scalar": (torch.tensor(1.0), r"shape \[\]"),
    "empty": (torch.ones(2, 0, 0), r"shape \[2, 0, 0\]"),
}


@pytest.mark.parametrize("function", [covariance_sqrt, matrix_sqrt, pool_features])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_input_that_is_refused(function, mistake):
    given, message = MISTAKES[mistake]
    with pytest.raises(GCPError, match=message):
        function(given)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("method", [None, 1, b"svd", ["svd"], "", "svdpadé"])
def test_methods_that_are_refused(method):
    x = torch.ones(3, 4)
    for call in (
        lambda: get_method(method),
        lambda: covariance_sqrt(x, method),
        lambda: matrix_sqrt(torch.eye(3), method),
        lambda: GlobalCovariancePool(3, method, reduce=None),
    ):
        with pytest.raises(GCPError, match="svdpade"):
            call()
