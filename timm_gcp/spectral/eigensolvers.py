"""Which library solves a batch of symmetric eigenproblems: on a GPU the fastest that is there, found by trying.

On the CPU there is LAPACK, through torch. On CUDA torch's own solver goes through a batch one matrix at a time up to
torch 2.11 (and is batched from 2.12), CuPy's is batched, and for some shapes the CPU beats both. So the first batch of
each shape is timed through all of them, and the winner is remembered.
"""

import functools
import importlib.util
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["SOLVERS", "Eigensolver", "batched_eigh", "fastest"]

_logger = logging.getLogger(__name__)

Solve = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Eigensolver:
    """A library that solves a batch.

    Attributes:
        name: for the log.
        solve: symmetric matrices ``[..., n, n]`` → ascending eigenvalues and eigenvectors in columns, on the device
            and in the dtype of the input.
        available: whether it can be tried.
    """

    name: str
    solve: Solve
    available: Callable[[], bool] = lambda: True


def _torch(a: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(a)
    return values, vectors


def _cupy(a: Tensor) -> tuple[Tensor, Tensor]:
    cupy: Any = importlib.import_module("cupy")
    with cupy.cuda.Device(a.device.index), cupy.cuda.ExternalStream(torch.cuda.current_stream(a.device).cuda_stream):
        values, vectors = cupy.linalg.eigh(cupy.from_dlpack(a.detach().contiguous()))
    return torch.from_dlpack(values), torch.from_dlpack(vectors)


def _on_the_cpu(a: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(a.cpu())
    return values.to(a.device), vectors.to(a.device)


SOLVERS = (
    Eigensolver("torch", _torch),
    Eigensolver("cupy", _cupy, lambda: importlib.util.find_spec("cupy") is not None),
    Eigensolver("cpu", _on_the_cpu),
)
"""What is tried on CUDA, the first where nothing else works."""


def batched_eigh(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a batch of symmetric matrices, by the fastest library for its shape.

    Args:
        a: ``[..., n, n]``, float32 or float64.

    Returns:
        Eigenvalues ``[..., n]``, ascending, and eigenvectors ``[..., n, n]`` in columns.

    Raises:
        torch.linalg.LinAlgError: torch's solver, or LAPACK, does not converge on a matrix of the batch.
    """
    # A graph that is being recorded holds torch's own solver.
    if a.device.type != "cuda" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _torch(a)
    batch = a.shape[:-2].numel()
    return _chosen(a.device, a.dtype, a.shape[-1], (batch - 1).bit_length()).solve(a)


@functools.cache
def _chosen(device: torch.device, dtype: torch.dtype, n: int, batch_bits: int) -> Eigensolver:
    own = torch.Generator(device).manual_seed(0)  # the run's random numbers stay as they are
    features = torch.randn(2**batch_bits, n, n + 1, dtype=dtype, device=device, generator=own)
    sample = features @ features.mT
    return fastest(sample, SOLVERS, lambda: torch.cuda.synchronize(device))


def fastest(sample: Tensor, solvers: Sequence[Eigensolver], wait: Callable[[], None], repeats: int = 3) -> Eigensolver:
    """Times the solvers on a batch.

    Args:
        sample: the batch.
        solvers: to try; one that fails is out, the first stands in if all do.
        wait: waits until the device has finished.
        repeats: of which the best counts, after one that does not.
    """
    times: dict[str, float] = {}
    for solver in solvers:
        if not solver.available():
            continue
        try:
            runs = [_seconds(solver.solve, sample, wait) for _ in range(repeats + 1)]
        except Exception as error:  # whatever a library that does not fit the driver raises
            _logger.warning("The eigensolver of %s does not work here: %s", solver.name, error)
            continue
        times[solver.name] = min(runs[1:])
    best = min(solvers, key=lambda solver: times.get(solver.name, float("inf")))
    shown = ", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in times.items())
    _logger.info("eigh of %s %s: %s (%s)", list(sample.shape), sample.dtype, best.name, shown)
    return best


def _seconds(solve: Solve, sample: Tensor, wait: Callable[[], None]) -> float:
    wait()
    began = time.perf_counter()
    solve(sample)
    wait()
    return time.perf_counter() - began
