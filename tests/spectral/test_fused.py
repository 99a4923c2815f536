"""Rules compiled on a GPU; a CPU stands in for it where torch's compiler has what it needs, or a backend of our own."""

import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from timm_gcp import METHODS, pool_features
from timm_gcp.spectral import fused as module
from timm_gcp.spectral.newton_schulz_eigen import divided_differences

# bdc runs in float64 for the sake of its differences.
WITHOUT = ("svdnewton", "bdc")
WITH_RULES = [name for name, row in METHODS.items() if row.dtype == torch.float64 and name not in WITHOUT] + ["mpa"]


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Every test has the compiler to itself."""
    compiled = module._compiled
    monkeypatch.setattr(module, "_failed", set())
    torch.compiler.reset()
    compiled.cache_clear()
    yield
    torch.compiler.reset()
    compiled.cache_clear()


@pytest.fixture
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(module, "DEVICES", {"cpu"})


def compile_with(monkeypatch, backend: Callable) -> None:
    compiled = {}

    def make(function):
        return compiled.setdefault(function, torch.compile(function, dynamic=True, backend=backend))

    monkeypatch.setattr(module, "_compiled", make)


def gradient(method: str, batch: int = 3, positions: int = 9) -> Tensor:
    x = torch.randn(batch, 7, positions, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).relu()
    x.requires_grad_()
    pool_features(x, method).square().sum().backward()
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize("method", WITH_RULES)
def test_the_whole_rule_is_one_graph(method, monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    shapes = ((3, 9), (4, 5), (2, 6))
    written = [gradient(method, *shape) for shape in shapes]
    compile_with(monkeypatch, backend)
    monkeypatch.setattr(module, "DEVICES", {"cpu"})
    for shape, want in zip(shapes, written, strict=True):
        torch.testing.assert_close(gradient(method, *shape), want, rtol=1e-14, atol=0)
    assert len(graphs) == 1  # for all sizes, and for a rule that is made anew each time


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch's compiler needs a C++ compiler on the CPU")
@pytest.mark.parametrize("method", ["svdtaylor", "svdtopn"])
def test_the_kernel_gives_the_gradient_of_the_written_rule(method, monkeypatch):
    want = gradient(method)
    monkeypatch.setattr(module, "DEVICES", {"cpu"})
    torch.testing.assert_close(gradient(method), want, rtol=1e-12, atol=1e-14)
    assert not module._failed


def test_a_cpu_compiles_nothing(monkeypatch):
    compile_with(monkeypatch, lambda *_: pytest.fail("compiled"))
    gradient("svdpade")


def test_a_compiler_that_fails_is_said_once_and_left_alone(monkeypatch, on_the_cpu, caplog):
    tries = []

    def backend(graph, inputs):
        tries.append(graph)
        raise RuntimeError("no such card")

    compile_with(monkeypatch, backend)
    got = [gradient("svdpade"), gradient("svdpade", 2, 6)]
    assert len(tries) == 1
    said = [record.message for record in caplog.records if record.name == module.__name__]
    assert len(said) == 1
    assert said[0].startswith("_loewner runs uncompiled, torch.compile failed")
    monkeypatch.setattr(module, "DEVICES", set())
    assert all(torch.equal(one, gradient("svdpade", *shape)) for one, shape in zip(got, ((3, 9), (2, 6)), strict=True))


def test_an_error_of_the_function_itself_is_raised(monkeypatch, on_the_cpu):
    @module.fused
    def refuses(x: Tensor) -> Tensor:
        raise ValueError("not this one")

    with pytest.raises(ValueError, match="not this one"):
        refuses(torch.ones(2))
    assert not module._failed


def test_newton_schulz_differences_are_an_operator_that_the_compiler_leaves_whole():
    eigenvalues = torch.rand(2, 3, 5, dtype=torch.float64)
    torch.library.opcheck(divided_differences, (eigenvalues, 5))
    seen = []

    def backend(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    z, pairs = torch.compile(lambda e: divided_differences(e, 10), backend=backend, fullgraph=True)(eigenvalues)
    assert any("timm_gcp.divided_differences" in target for target in seen)
    assert z.shape == (2, 3, 5)
    assert pairs.shape == (2, 3, 5, 5)


def test_inside_a_compiled_layer_a_rule_is_part_of_its_graph(monkeypatch, on_the_cpu):
    monkeypatch.setattr(module, "_compiled", lambda _: pytest.fail("compiled by itself"))
    x = torch.randn(2, 6, 5, dtype=torch.float64).relu().requires_grad_()
    compiled = torch.compile(lambda x: pool_features(x, "svdpade"), backend="eager", fullgraph=True)
    (got,) = torch.autograd.grad(compiled(x).square().sum(), x)
    monkeypatch.setattr(module, "DEVICES", set())
    (want,) = torch.autograd.grad(pool_features(x, "svdpade").square().sum(), x)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)
