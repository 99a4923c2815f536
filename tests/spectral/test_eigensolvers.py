"""Batches in parallel on the CPU; on a GPU the fastest solver that works, chosen once a shape."""

import multiprocessing
import os
import time

import pytest
import torch

from timm_gcp.spectral import eigensolvers
from timm_gcp.spectral.eigensolvers import SOLVERS, Eigensolver, batched_eigh, fastest, in_parallel


def _sample():
    x = torch.randn(3, 6, 8, dtype=torch.float64)
    return x @ x.mT


def _slow(a):
    time.sleep(0.2)
    return torch.linalg.eigh(a)


def _broken(a):
    raise RuntimeError("no such driver")


def test_the_fastest_that_works(caplog):
    solvers = [Eigensolver("slow", _slow), Eigensolver("broken", _broken), Eigensolver("torch", SOLVERS[0].solve)]
    absent = Eigensolver("absent", _broken, lambda: False)
    assert fastest(_sample(), [*solvers, absent], lambda: None).name == "torch"
    assert "broken does not work here: no such driver" in caplog.text
    assert "absent" not in caplog.text
    assert fastest(_sample(), [solvers[1], absent], lambda: None).name == "broken"  # none works: the first will say why


@pytest.mark.parametrize("solver", [s for s in SOLVERS if s.name != "cupy"], ids=lambda s: s.name)
def test_solvers_agree(solver):
    a = _sample()
    values, vectors = solver.solve(a)
    assert torch.allclose(vectors * values.unsqueeze(-2) @ vectors.mT, a, atol=1e-12)
    assert (values.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2,)])
def test_in_parallel(shape):
    x = torch.randn(*shape, 20, 30, dtype=torch.float64)
    a, threads = x @ x.mT, torch.get_num_threads()
    values, vectors = in_parallel(a, 2)
    assert torch.get_num_threads() == threads
    assert torch.allclose(values, torch.linalg.eigvalsh(a), rtol=1e-12)
    assert torch.allclose(vectors * values.unsqueeze(-2) @ vectors.mT, a, atol=1e-10)


def test_a_fault_in_parallel_is_raised_and_leaves_the_threads(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(eigensolvers, "_torch", _broken)
    with pytest.raises(RuntimeError, match="no such driver"):
        in_parallel(_sample(), 2)
    assert torch.get_num_threads() == threads


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_in_parallel_after_a_fork():
    """The threads of the parent are not there in a child."""
    a = _sample()
    in_parallel(a, 2)
    child = multiprocessing.get_context("fork").Process(target=in_parallel, args=(a, 2))
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_large_batches_are_shared(monkeypatch):
    shared = []

    def spy(a, threads):
        shared.append((a.shape[0], threads))
        return torch.linalg.eigh(a)

    monkeypatch.setattr(eigensolvers, "in_parallel", spy)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    for batch, n in ((16, 49), (3, 100), (1, 200), (2, 10)):
        batched_eigh(torch.eye(n).repeat(batch, 1, 1))
    assert shared == [(16, 4), (3, 3)]


def test_on_the_cpu_nothing_is_tried(monkeypatch):
    monkeypatch.setattr(eigensolvers, "_chosen", lambda *_: pytest.fail("timed on the CPU"))
    a = _sample()
    assert torch.equal(batched_eigh(a)[0], torch.linalg.eigh(a)[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_choice_is_remembered():
    eigensolvers._chosen.cache_clear()
    a = _sample().cuda()
    for batch in (a, a[:2], torch.cat([a, a])):  # 3, 2 and 6 matrices: buckets of 4, 2 and 8
        values, vectors = batched_eigh(batch)
        assert torch.allclose(vectors * values.unsqueeze(-2) @ vectors.mT, batch, atol=1e-10)
    assert eigensolvers._chosen.cache_info().currsize == 3
    batched_eigh(a)
    assert eigensolvers._chosen.cache_info().hits == 1
