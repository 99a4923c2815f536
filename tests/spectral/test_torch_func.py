"""``torch.func`` on every method: per-sample gradients, Jacobians, functional calls; second derivatives are refused."""

import pytest
import timm
import torch
from torch.func import functional_call, grad, jacrev, vmap

import timm_gcp  # noqa: F401  registers the models
from timm_gcp.functional import matrix_sqrt, pool_features
from timm_gcp.methods import METHODS

ARGUMENTS = {"cbp": {"sketch": 16}, "svdtopn": {"keep": 3}}
SHAPES = [(6, 5), (4, 9)]  # fewer positions than channels, and more
SPECTRAL = [name for name, row in METHODS.items() if row.of_sigma is not None]
# What runs in float32 by itself.
TOLERANCE = dict(rtol=1e-5, atol=1e-5)


def loss_of(name):
    def loss(x):
        vector = pool_features(x, name, **ARGUMENTS.get(name, {}))
        return (vector * torch.arange(1.0, 1 + vector.shape[-1], dtype=x.dtype)).sum()

    return loss


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_per_sample_gradients_are_those_of_a_loop(name, shape):
    x, loss = torch.randn(3, *shape, dtype=torch.float64), loss_of(name)
    loop = []
    for one in x:
        leaf = one.clone().requires_grad_()
        loop += torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(vmap(grad(loss))(x), torch.stack(loop), **TOLERANCE)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_mapped_jacobians(name, shape):
    x = torch.randn(2, *shape, dtype=torch.float64)

    def function(one):
        return pool_features(one, name, **ARGUMENTS.get(name, {}))

    expected = torch.stack([torch.autograd.functional.jacobian(function, one) for one in x])
    torch.testing.assert_close(jacrev(function)(x[0]), expected[0], **TOLERANCE)
    torch.testing.assert_close(vmap(jacrev(function))(x), expected, **TOLERANCE)
    # A mapped dimension that is not the first.
    torch.testing.assert_close(vmap(function, in_dims=1)(x.movedim(0, 1)), function(x), **TOLERANCE)


@pytest.mark.parametrize("name", SPECTRAL)
def test_given_matrices(name):
    x = torch.randn(2, 5, 9, dtype=torch.float64)
    arguments = ARGUMENTS.get(name, {})

    def function(one):
        return matrix_sqrt(one, name, **arguments)

    sigma = x @ x.mT
    expected = torch.stack([torch.autograd.functional.jacobian(function, one) for one in sigma])
    torch.testing.assert_close(vmap(jacrev(function))(sigma), expected, **TOLERANCE)


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_newton_schulz_eigenfree(iterations):
    """The form for a GPU, on both sides of the features."""
    from timm_gcp.spectral.newton_schulz import newton_schulz_eigenfree

    for shape in SHAPES:
        x = torch.randn(2, *shape, dtype=torch.float64)

        def function(one):
            return newton_schulz_eigenfree(one, iterations)

        expected = torch.stack([torch.autograd.functional.jacobian(function, one) for one in x])
        torch.testing.assert_close(vmap(jacrev(function))(x), expected)


@pytest.mark.parametrize("name", ["isqrt", "svdpade", "polar", "seb"])
def test_per_sample_gradients_of_a_network(name):
    model = timm.create_model(f"test_resnet_{name}", num_classes=4).eval()
    parameters = {key: value.detach() for key, value in model.named_parameters()}
    buffers = dict(model.named_buffers())
    images, labels = torch.randn(3, 3, 64, 64), torch.tensor([0, 3, 1])

    def loss(parameters, image, label):
        logits = functional_call(model, (parameters, buffers), (image.unsqueeze(0),))
        return torch.nn.functional.cross_entropy(logits, label.unsqueeze(0))

    mapped = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images, labels)
    for i in range(len(images)):
        alone = torch.autograd.grad(
            torch.nn.functional.cross_entropy(model(images[i : i + 1]), labels[i : i + 1]), list(model.parameters())
        )
        for (key, _), expected in zip(model.named_parameters(), alone, strict=True):
            torch.testing.assert_close(mapped[key][i], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", METHODS)
def test_second_derivatives_are_refused(name):
    x, loss = torch.randn(4, 9, dtype=torch.float64), loss_of(name)
    with pytest.raises(RuntimeError, match="cannot be differentiated a second time"):
        grad(lambda one: grad(loss)(one).sum())(x)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated a second time"):
        first.sum().backward()


def test_the_gradient_of_the_eigenvalues_alone():
    """A scalar of Σ without the matrix: what one of two results gives when the other is not used."""
    from timm_gcp.spectral.spectral_function import EXACT_ROOT, of_features, of_sigma

    for function, given in (
        (of_features, torch.randn(5, 4, dtype=torch.float64)),
        (of_sigma, torch.cov(torch.randn(4, 9, dtype=torch.float64))),
    ):
        leaf = given.clone().requires_grad_()
        torch.autograd.gradcheck(lambda one, f=function: f(one, EXACT_ROOT)[1].square().sum(), leaf)
