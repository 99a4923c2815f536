"""Solves a batch of symmetric eigenproblems: on the CPU in parallel, on a GPU by the fastest library available.

On the CPU torch calls LAPACK for one matrix at a time with all threads, which a matrix of one or two hundred rows
cannot use; here each thread solves matrices of its own. On CUDA torch's solver takes the matrices of a batch one by
one up to torch 2.11 (it is batched from 2.12), CuPy's is batched, and for some shapes the CPU is faster than both. So
all of them are timed on the first batch of each shape, and the fastest is used for that shape from then on.
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

_WORTH_SHARING = 10**6  # matrices × rows³ (10 matrices of 49 rows), about a millisecond of work

Solve = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Eigensolver:
    """A library that solves a batch of eigenproblems.

    Attributes:
        name: for the log.
        solve: symmetric matrices ``[..., n, n]`` → ascending eigenvalues and eigenvectors in columns, on the device
            and in the dtype of the input.
        available: whether the library is installed.
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
"""The solvers that are timed on CUDA. The first is used if all fail."""


def batched_eigh(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a batch of symmetric matrices, by the fastest library for its shape.

    Args:
        a: ``[..., n, n]``, float32 or float64.

    Returns:
        Eigenvalues ``[..., n]``, ascending, and eigenvectors ``[..., n, n]`` in columns.

    Raises:
        torch.linalg.LinAlgError: torch's solver, or LAPACK, does not converge on a matrix of the batch.
    """
    if recorded(a) or a.requires_grad:  # graphs and autograd need torch's own solver
        return _torch(a)
    batch, n = a.shape[:-2].numel(), a.shape[-1]
    if a.device.type == "cuda":
        return _chosen(a.device, a.dtype, n, (batch - 1).bit_length()).solve(a)
    threads = min(torch.get_num_threads(), batch)
    if a.device.type == "cpu" and threads > 1 and batch * n**3 >= _WORTH_SHARING:
        return in_parallel(a, threads)
    return _torch(a)


def recorded(a: Tensor) -> bool:
    """Whether operations on this tensor become part of a graph, where nothing can be timed and values are unknown."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[no-untyped-call]
    return torch.compiler.is_compiling() or tracing or type(a) is not Tensor or a.is_meta


def in_parallel(a: Tensor, threads: int) -> tuple[Tensor, Tensor]:
    """Solves a batch on the CPU, with one part of it in each thread.

    Args:
        a: ``[..., n, n]``, at least as many matrices as threads.
        threads: number of threads.

    Returns:
        As `batched_eigh`.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # for LAPACK in each of the threads
    try:
        parts = list(_workers(os.getpid(), threads).map(_torch, a.flatten(0, -3).tensor_split(threads)))
    finally:
        torch.set_num_threads(before)
    values, vectors = (torch.cat(part) for part in zip(*parts, strict=True))
    return values.view(a.shape[:-1]), vectors.view(a.shape)


@functools.cache
def _workers(process: int, threads: int) -> ThreadPoolExecutor:
    """A pool of threads in which torch uses one thread each; a forked process gets a pool of its own."""
    return ThreadPoolExecutor(threads, "eigh", initializer=torch.set_num_threads, initargs=(1,))


@functools.cache
def _chosen(device: torch.device, dtype: torch.dtype, n: int, batch_bits: int) -> Eigensolver:
    own = torch.Generator(device).manual_seed(0)  # does not change the random numbers of the run
    features = torch.randn(2**batch_bits, n, n + 1, dtype=dtype, device=device, generator=own)
    sample = features @ features.mT
    return fastest(sample, SOLVERS, lambda: torch.cuda.synchronize(device))


def fastest(sample: Tensor, solvers: Sequence[Eigensolver], wait: Callable[[], None], repeats: int = 3) -> Eigensolver:
    """The solver that takes the least time on a batch.

    Args:
        sample: the batch.
        solvers: the solvers to time. One that fails is left out with a warning; if all fail, the first is returned.
        wait: waits until the device has finished.
        repeats: number of runs, after one that is not counted; the fastest run counts.
    """
    times: dict[str, float] = {}
    for solver in solvers:
        if not solver.available():
            continue
        try:
            runs = [_seconds(solver.solve, sample, wait) for _ in range(repeats + 1)]
        except Exception as error:  # a library that does not fit the driver may raise anything
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
