"""Contributions of positions: their sum, and their values by an independent exact gradient, for every method."""

import numpy as np
import pytest
import torch
from scipy.linalg import solve_continuous_lyapunov

from tests.support.reference import KINDS, awkward, relative, with_singular_values
from timm_gcp import METHODS, GCPError, pool_features
from timm_gcp.explanation.rules import rule_of

ROOTS = ["svd", "svdtrunc", "svdtaylor", "svdpade", "svdnewton", "svdpi", "svdlyap", "polar"]
ADMITTED = [*ROOTS, "isqrt", "svdtopn", "rsqrt", "mpa", "mtp", "cov", "bdc"]
REFUSED = ["logm", "seb", "maxexp", "corr", "gaussian", "bcnn", "cbp"]


def shares_of(method, x, weight, **args):
    """Contributions [B, M] to ⟨weight, output⟩, and that number."""
    rule = rule_of(method, args)
    x = (x - x.mean(2, keepdim=True) if rule.centred else x).detach().requires_grad_()
    total = (rule.vector(x) * weight).sum(1)
    (gradient,) = torch.autograd.grad(total.sum(), x)
    return (x.detach() * gradient).sum(1) / rule.degree, total.detach()


def triangle_as_matrix(weight, c):
    """The symmetric G with ⟨G, Y⟩ = ⟨weight, triangle of Y⟩."""
    g = torch.zeros(len(weight), c, c, dtype=torch.float64)
    rows, columns = torch.triu_indices(c, c)
    g[:, rows, columns] = weight
    return (g + g.mT) / 2


def test_every_method_is_admitted_or_refused():
    assert {*ADMITTED, *REFUSED} == set(METHODS)
    for method in (*REFUSED, "mp"):
        with pytest.raises(GCPError, match=f"Method '{method}' cannot be explained, because .* explain a model"):
            rule_of(method)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ADMITTED)
def test_contributions_add_up_to_the_forward_of_the_method(method, kind):
    """Against the output that the model computes, in float64, at both shapes and at extreme scales."""
    generator = torch.Generator().manual_seed(0)
    for c, m in ((5, 9), (9, 5)):
        x = awkward(kind, c, m, generator)
        weight = torch.randn(2, METHODS[method].width(c), generator=generator, dtype=torch.float64)
        for scale in (1e-15, 1.0, 1e15):
            shares, total = shares_of(method, x * scale, weight)
            output = (pool_features(x * scale, method, dtype=torch.float64) * weight).sum(1)
            size = scale ** METHODS[method].degree()
            assert shares.isfinite().all()
            torch.testing.assert_close(shares.sum(1), output, rtol=1e-9, atol=1e-11 * size)
            torch.testing.assert_close(total, output, rtol=1e-9, atol=1e-11 * size)


@pytest.mark.parametrize("method", ROOTS)
def test_a_root_has_the_gradient_of_the_lyapunov_equation(method):
    """2 x̄ₘᵀGx̄ₘ with √Σ G + G √Σ = W, where clusters of eigenvalues make the published gradients wrong."""
    c, m = 6, 20
    clustered = torch.tensor([1.0, 1.0 - 1e-9, 0.9, 0.9 - 1e-12, 0.3, 1e-3], dtype=torch.float64)
    x = with_singular_values(c, m, clustered)[None]
    weight = torch.randn(1, c * (c + 1) // 2, dtype=torch.float64)
    centred = ((x - x.mean(2, keepdim=True)) / m**0.5)[0]
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    root = (u * s @ u.mT).numpy()
    g = solve_continuous_lyapunov(root, triangle_as_matrix(weight, c)[0].numpy())
    expected = 2 * np.einsum("im,ij,jm->m", centred.numpy(), g, centred.numpy())
    shares, _ = shares_of(method, x, weight)
    assert relative(shares[0], torch.from_numpy(expected)) < 1e-8


def test_the_published_gradient_of_svdpade_gives_other_contributions():
    """The sum alone does not tell: it is right for every rule with the right diagonal."""
    x = with_singular_values(6, 20, torch.tensor([1.0, 0.99, 0.98, 0.3, 0.2, 0.1], dtype=torch.float64))[None]
    weight = torch.randn(1, 21, dtype=torch.float64)
    exact, total = shares_of("svdtaylor", x, weight)
    leaf = (x - x.mean(2, keepdim=True)).requires_grad_()
    (pool_features(leaf, "svdtaylor", dtype=torch.float64) * weight).sum().backward()
    published = (leaf * leaf.grad).detach().sum(1)
    assert published.sum() == pytest.approx(total.item())
    assert relative(published, exact) > 1e-3


def test_closed_forms_of_covariance_and_brownian_distance():
    x, weight = torch.randn(2, 4, 7, dtype=torch.float64), torch.randn(2, 10, dtype=torch.float64)
    centred = (x - x.mean(2, keepdim=True)) / 7**0.5
    g = triangle_as_matrix(weight, 4)
    shares, _ = shares_of("cov", x, weight)
    torch.testing.assert_close(shares, torch.einsum("bim,bij,bjm->bm", centred, g, centred))
    # A position has its part in the square of every distance.
    gap = (x[:, :, None] - x[:, None]).square()
    distance = (0.5 * gap.mean(3)).sqrt()
    double_centred = torch.eye(4, dtype=torch.float64) - 0.25
    portion = gap / gap.sum(3, keepdim=True).clamp_min(1e-300) * distance.unsqueeze(3)
    expected = torch.einsum("bij,ik,bklm,lj->bm", g, double_centred, portion, double_centred)
    shares, _ = shares_of("bdc", x, weight)
    torch.testing.assert_close(shares, expected)


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("isqrt", {}),
        ("isqrt", {"iterations": 3}),
        ("mpa", {}),
        ("mtp", {}),
        ("rsqrt", {}),
        ("svdtopn", {"keep": 2}),
        ("svdpade", {"alpha": 0.3}),
        ("svd", {"alpha": 0.7}),
    ],
)
def test_other_functions_by_finite_differences(method, args):
    """The gradient is that of the function which the forward computes, not of the exact root."""
    x, weight = torch.randn(1, 4, 9, dtype=torch.float64), torch.randn(1, 10, dtype=torch.float64)
    x = x - x.mean(2, keepdim=True)
    shares, _ = shares_of(method, x, weight, **args)
    step, expected = 1e-6, torch.zeros(9, dtype=torch.float64)
    for m in range(9):
        for sign in (1, -1):
            moved = x.clone()
            moved[..., m] *= 1 + sign * step
            value = (pool_features(moved, method, dtype=torch.float64, **args) * weight).sum()
            expected[m] += sign * value / (2 * step) / METHODS[method].degree(**args)
    # Moving one column also moves the mean, to which the function has no gradient.
    torch.testing.assert_close(shares[0], expected, rtol=1e-6, atol=1e-8)


def test_a_method_of_the_user_is_refused(monkeypatch):
    import dataclasses

    from timm_gcp import methods

    row = dataclasses.replace(METHODS["cov"], name="mine")
    monkeypatch.setitem(methods._BY_NAME, "mine", row)
    with pytest.raises(GCPError, match="'mine' cannot be explained, because its gradient"):
        rule_of("mine")
