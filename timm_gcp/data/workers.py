"""Starts and stops loader processes, and explains their failures."""

import contextlib
import ctypes
import multiprocessing
import multiprocessing.queues
import multiprocessing.util
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..errors import GCPError
from .system_errors import LoaderError, short_of

__all__ = ["GuardedLoader", "LoaderError", "seed_worker", "start_worker"]

_FEWER = "use fewer loader processes (-j N; -j 0 loads in the main process)"
_REASONS = {
    "files": (
        "The loader processes need more open files than the limit allows: raise the limit (ulimit -n 4096), or "
        f"{_FEWER}."
    ),
    "shared": (
        "The loader processes ran out of shared memory: give the container more (docker run --shm-size 8g), make "
        f"/dev/shm larger, or {_FEWER}."
    ),
    "memory": f"The loader processes ran out of memory: {_FEWER}, or lower -b.",
}
_EXIT_STATUS = {"files": 81, "shared": 82, "memory": 83, "other": 84}  # of a worker that cannot send a batch
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class GuardedLoader:
    """Wraps a loader of timm: reports the failures of its processes in one sentence, and ends them with itself.

    A worker that dies raises ``LoaderError`` within seconds, when the next batch is awaited, never during an update.

    Args:
        loader: a ``DataLoader``, or timm's ``PrefetchLoader`` around one.
        dataset: what the attribute ``dataset`` shows; None for the loader's own.

    Attributes:
        awaiting: is called for a context manager in which a batch is awaited.
    """

    def __init__(self, loader: Any, dataset: Any = None) -> None:
        self.loader = loader
        self.dataset = loader.dataset if dataset is None else dataset
        self.awaiting: Any = contextlib.nullcontext
        self._workers: list[Any] = []
        self._end = multiprocessing.util.Finalize(self, _kill, args=(self._workers,), exitpriority=10)

    @property
    def sampler(self) -> Any:
        """The sampler that orders the images."""
        return self.batch_sampler.sampler

    @property
    def batch_sampler(self) -> Any:
        """The loader's batch sampler."""
        return getattr(self.loader, "loader", self.loader).batch_sampler  # timm's prefetcher may hide it

    def set_epoch(self, epoch: int) -> None:
        """Tells sampler and data set the epoch, where they ask for it."""
        for target in (self.sampler, self.dataset):
            if hasattr(target, "set_epoch"):
                target.set_epoch(epoch)

    @property
    def mixup_enabled(self) -> bool:
        """Whether mixup is applied when batches are collated; can be set."""
        return getattr(self.loader, "mixup_enabled", False)

    @mixup_enabled.setter
    def mixup_enabled(self, value: bool) -> None:
        self.loader.mixup_enabled = value

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        iterator: Any = None
        while True:
            first = iterator is None
            before = set(multiprocessing.active_children()) if first else set()
            try:
                with self.awaiting():
                    if iterator is None:
                        iterator = iter(self.loader)
                    batch = next(iterator)
            except StopIteration:
                return
            except GCPError:
                raise
            except Exception as error:
                _defer_deaths()  # close() kills processes
                self._remember(before if first else None)
                reason = _reason(error, self._workers)
                if reason is None:
                    raise
                self.close()
                _release(error)
                raise LoaderError(reason) from error
            finally:
                _defer_deaths()
            self._remember(before if first else None)
            yield batch

    def _remember(self, before: set[Any] | None) -> None:
        """Adds the processes started since ``before`` was recorded; None if none can have been started."""
        if before is None:
            return
        # Processes that have ended are known only to torch's iterator.
        iterator = getattr(self._inner, "_iterator", None)
        new = {*getattr(iterator, "_workers", ()), *multiprocessing.active_children()} - before
        old = {worker for worker in self._workers if worker.exitcode != 0}
        self._workers[:] = old | new

    @property
    def _inner(self) -> Any:
        return getattr(self.loader, "loader", self.loader)

    def close(self) -> None:
        """Kills the loader's processes; the loader can be used again, with new ones."""
        _kill(self._workers)
        self._workers.clear()
        inner = self._inner
        iterator = getattr(inner, "_iterator", None)
        if iterator is not None:
            inner._iterator = None
            # torch's own shutdown takes a lock that a killed process may hold, so it is not waited for indefinitely.
            shutdown = threading.Thread(target=iterator._shutdown_workers, daemon=True)
            shutdown.start()
            shutdown.join(10)

    def __enter__(self) -> "GuardedLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _kill(workers: list[Any]) -> None:
    for worker in workers:
        with contextlib.suppress(ValueError, OSError):  # closed or gone
            worker.kill()
    for worker in workers:
        with contextlib.suppress(ValueError, AssertionError, OSError):
            worker.join(5)


def _release(error: BaseException) -> None:
    """Clears the frames of an error, whose queues hold open files, so that a checkpoint can still be written."""
    hook, sys.unraisablehook = sys.unraisablehook, _no_action  # deleting torch's incomplete iterator raises
    try:
        traceback.clear_frames(error.__traceback__)
    finally:
        sys.unraisablehook = hook


def _defer_deaths() -> None:
    """Removes torch's SIGCHLD handler, which would raise anywhere in the main thread, such as during an update.

    While a batch is awaited, torch still checks its workers every 5 seconds.
    """
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, _no_action)


def _no_action(*_: object) -> None:
    pass


def _reason(error: BaseException, workers: list[Any]) -> str | None:
    """The message for an error of the loader; None if the error does not come from its processes."""
    kind = short_of(error)
    if kind is not None:
        return _REASONS[kind]
    broken = isinstance(error, (EOFError, ConnectionError))  # the process died while it sent a batch
    if broken:
        _await_an_end(workers)
    ended = [worker for worker in workers if worker.exitcode not in (None, 0)]
    if not ended and not broken and "DataLoader worker (pid" not in str(error):
        return None
    for worker in ended:
        for kind, status in _EXIT_STATUS.items():
            if worker.exitcode == status and kind in _REASONS:
                return _REASONS[kind]
    codes = [worker.exitcode for worker in ended]
    if -getattr(signal, "SIGBUS", 0) in codes:
        return _REASONS["shared"]
    if -getattr(signal, "SIGKILL", 0) in codes:
        return f"A loader process was killed, as the system does when memory is short: {_FEWER}, or lower -b."
    how = f" ({_how(codes[0])})" if codes else ""
    return f"A loader process ended unexpectedly{how}: {_FEWER}."


def _await_an_end(workers: list[Any], seconds: float = 5.0) -> None:
    """Waits until one of the processes has ended: the system reports that after the broken connection."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and all(worker.exitcode is None for worker in workers):
        time.sleep(0.02)


def _how(exit_code: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-exit_code).name
    return f"status {exit_code}"


# ---------------------------------------------------------------------------------------------- in the worker


def start_worker(worker: Any) -> int:
    """Prepares a loader process; to be passed to timm's loader as ``worker_seeding``.

    The process ignores the signals that a terminal, ``torchrun`` and batch systems send to every process of a run,
    because without its workers the main process could not finish its update. It ends with the main process.

    Args:
        worker: what ``torch.utils.data.get_worker_info`` returns.

    Returns:
        The worker's seed, unchanged.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # An error in the thread that sends batches would lose the batch, and the main process would wait forever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_cannot_send)  # type: ignore[attr-defined]
    sys.excepthook = _excepthook
    _end_with_parent()
    return worker.seed


def _cannot_send(error: BaseException, _: object) -> None:
    kind = short_of(error)
    if kind is None:
        print(f"timm-gcp: a loader process cannot send a batch: {error}", file=sys.stderr, flush=True)
    os._exit(_EXIT_STATUS[kind or "other"])


def _excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Prints nothing for the broken connection that a stopping main process leaves to the thread of shared tensors."""
    if not isinstance(error, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, trace)  # type: ignore[arg-type]


def _end_with_parent() -> None:
    """Makes this process end when its parent ends, even if it is busy or blocked."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform.startswith("linux"):
        prctl = getattr(ctypes.CDLL(None), "prctl", None)
        if prctl is not None and prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) == 0:
            if not parent.is_alive():  # it ended before the call
                os._exit(1)
            return
    threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()


def _watch_parent(parent: Any) -> None:
    parent.join()
    os._exit(1)


def seed_worker(seed: int) -> None:
    """Seeds Python's, torch's and NumPy's generators in this process, as timm does when a loader process starts."""
    random.seed(seed)
    torch.manual_seed(seed)
    np.random.seed(seed % (2**32 - 1))  # noqa: NPY002  transforms draw from it
