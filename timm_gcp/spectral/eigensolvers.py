"""A batch of symmetric eigenproblems: on the CPU in parallel, on a GPU by the fastest library that is there.

On the CPU torch gives LAPACK one matrix at a time and all threads, which a matrix of one or two hundred rows cannot
use: here each thread has matrices of its own. On CUDA torch's solver goes through a batch one matrix at a time up to
torch 2.11 (and is batched from 2.12), CuPy's is batched, and for some shapes the CPU beats both. So the first batch of
each shape is timed through all of them, and the winner is remembered.
"""

import functools
import importlib.util
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["SOLVERS", "Eigensolver", "batched_eigh", "fastest", "recorded"]

_logger = logging.getLogger(__name__)

_WORTH_SHARING = 10**6  # matrices × rows³: 10 of 49 rows, about a millisecond

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
    if recorded(a) or a.requires_grad:  # a graph holds torch's own solver
        return _torch(a)
    batch, n = a.shape[:-2].numel(), a.shape[-1]
    if a.device.type == "cuda":
        return _chosen(a.device, a.dtype, n, (batch - 1).bit_length()).solve(a)
    threads = min(torch.get_num_threads(), batch)
    if a.device.type == "cpu" and threads > 1 and batch * n**3 >= _WORTH_SHARING:
        return in_parallel(a, threads)
    return _torch(a)


def recorded(a: Tensor) -> bool:
    """Whether what is done with this tensor becomes part of a graph, which can neither time nor look at values."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or type(a) is not Tensor or a.is_meta


def in_parallel(a: Tensor, threads: int) -> tuple[Tensor, Tensor]:
    """Solves a batch on the CPU, each thread a part of it.

    Args:
        a: ``[..., n, n]``, at least as many matrices as threads.
        threads: how many.

    Returns:
        As `batched_eigh`.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # of LAPACK in every thread, for the time being
    try:
        parts = list(_workers(os.getpid(), threads).map(_torch, a.flatten(0, -3).tensor_split(threads)))
    finally:
        torch.set_num_threads(before)
    values, vectors = (torch.cat(part) for part in zip(*parts, strict=True))
    return values.view(a.shape[:-1]), vectors.view(a.shape)


@functools.cache
def _workers(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads that use no others; a forked process starts its own."""
    return ThreadPoolExecutor(threads, "eigh", initializer=torch.set_num_threads, initargs=(1,))


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
