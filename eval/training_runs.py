"""Training runs, several in parallel, each recorded as a row of a CSV file."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Protocol, TypeVar

import torch
from tqdm import tqdm

from timm_gcp import GCPError
from timm_gcp.__main__ import main

from .record import read_cells

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Environment of a run."""


class Keyed(Protocol):
    """A run that a table has a row of."""

    @property
    def key(self) -> tuple[str, ...]:
        """Its cells in the columns that identify a run."""


Run = TypeVar("Run", bound=Keyed)


def missing_runs(runs: Iterable[Run], table: Path, columns: Sequence[str]) -> list[Run]:
    """The runs that have no row yet.

    Args:
        runs: what is wanted.
        table: the CSV file.
        columns: those that identify a run.
    """
    finished = set(read_cells(table, columns)[list(columns)].itertuples(index=False, name=None))
    return [run for run in runs if run.key not in finished]


def train_in_parallel(
    runs: Sequence[Run], train: Callable[[Run], Any], record: Callable[[Run, Any], str], jobs: int
) -> list[GCPError]:
    """Trains runs in parallel threads and records each, one at a time, as soon as it is finished.

    A run that fails does not stop the others.

    Args:
        runs: in the order in which they start.
        train: trains one.
        record: writes its result down; returns a line for the user.
        jobs: number of runs in parallel.

    Returns:
        The errors of the runs that failed.
    """
    lock = Lock()
    failed: list[GCPError] = []
    hidden = None if runs else True  # None: hidden where standard error is no terminal
    with tqdm(total=len(runs), desc="runs", disable=hidden) as bar, ThreadPoolExecutor(jobs) as pool:

        def work(run: Run) -> None:
            try:
                result = train(run)
            except GCPError as error:
                failed.append(error)
                tqdm.write(str(error))
                return
            with lock:
                line = record(run, result)
                bar.update()
                tqdm.write(line)

        for _ in pool.map(work, runs):
            pass
    return failed


def raise_failures(failed: Sequence[GCPError]) -> None:
    """Raises an error that names all runs that failed, if there are any.

    Raises:
        GCPError: with one line per run.
    """
    if failed:
        raise GCPError("\n".join(map(str, failed)))


def run_command(arguments: Sequence[str], log: Path) -> None:
    """Runs ``timm-gcp`` in a process of its own with one thread, its output added to a log file.

    Args:
        arguments: of the command.
        log: the file.

    Raises:
        GCPError: the command failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        command = [sys.executable, "-m", "timm_gcp", *arguments]
        _check(subprocess.call(command, stdout=file, stderr=file, env={**os.environ, **ONE_THREAD}), log)


class Workers:
    """Processes that share the cores and run ``timm-gcp`` again and again.

    What a process prepares once serves all its runs: imports, the choice of convolution algorithms on a GPU, compiled
    kernels. On a GPU that takes longer than a short run. If this process is killed, they save their runs and end.

    Args:
        number: of processes.
    """

    def __init__(self, number: int) -> None:
        threads = max(1, (os.cpu_count() or 1) // number)
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(number, spawn, initializer=_prepare, initargs=(threads,))

    def run(self, arguments: Sequence[str], log: Path) -> None:
        """Runs a command in one of the processes; as `run_command`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        _check(self._pool.submit(run_here, list(arguments), log).result(), log)

    def close(self) -> None:
        """Ends the processes."""
        self._pool.shutdown()


def _prepare(threads: int) -> None:
    """Prepares a process of `Workers`."""
    torch.set_num_threads(threads)
    Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Waits for the end of the parent process; then asks the run to save and stop, or ends this idle process."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def run_here(arguments: Sequence[str], log: Path) -> int:
    """Runs a command in this process, its output added to a log file; returns its exit status."""
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        status = main(arguments)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(status)  # the pool, which would end this process, is gone
    return status


def _check(status: int, log: Path) -> None:
    if status:
        raise GCPError(f"A run ended with status {status}; see {log}, then start this command again: it continues.")
