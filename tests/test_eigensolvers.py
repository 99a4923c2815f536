"""The choice of an eigensolver: the fastest that works, once a shape. (The GPU's own run where there is one.)"""

import time

import pytest
import torch

from timm_gcp.spectral import eigensolvers
from timm_gcp.spectral.eigensolvers import SOLVERS, Eigensolver, batched_eigh, fastest


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
