"""Loader processes that are killed, stuck or short of something: a sentence, a checkpoint, and an end."""

import errno
import functools
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from timm.data.loader import _worker_init
from torch.utils.data import DataLoader, Dataset

from tests.support.resumed_runs import arguments, same_runs
from timm_gcp.__main__ import main
from timm_gcp.data import workers
from timm_gcp.data.image_dataset import StrictImageDataset
from timm_gcp.data.workers import GuardedLoader, LoaderError, start_worker
from timm_gcp.training import interrupt as interrupts
from timm_gcp.training.interrupt import Interrupt, Interrupted
from timm_gcp.weights.file import load_training_checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def hinder(monkeypatch, deed, at):
    """Has the loader process that reads its n-th image do something first. It works in processes that are forked."""
    read, seen = StrictImageDataset.__getitem__, []

    def hindered(self, index):
        seen.append(index)
        if torch.utils.data.get_worker_info() is not None and self.reader.is_hindered and len(seen) == at:
            deed()
        return read(self, index)

    check = StrictImageDataset.__init__

    def init(self, *args, **kwargs):
        check(self, *args, **kwargs)
        self.reader.is_hindered = "train" in str(self.reader.root)

    monkeypatch.setattr(StrictImageDataset, "__getitem__", hindered)
    monkeypatch.setattr(StrictImageDataset, "__init__", init)


# Updates of two batches each: one of them can be half done.
HALVES = ("-j", "1", "-b", "4", "--epochs", "2", "--grad-accum-steps", "2", "--checkpoint-hist", "1")


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    assert main(arguments(images, output, *HALVES)) == 0
    return output / "run"


@pytest.mark.parametrize("number", ["SIGKILL", pytest.param("SIGSEGV", marks=pytest.mark.slow)])
def test_a_killed_worker_ends_in_a_sentence_and_a_checkpoint(number, whole, images, tmp_path, capfd, monkeypatch):
    """In the second epoch, in the middle of an update; the run goes on bit for bit as if nothing had been."""
    with monkeypatch.context() as patched:
        hinder(patched, lambda: os.kill(os.getpid(), getattr(signal, number)), at=36 + 4 * 5)
        assert main(arguments(images, tmp_path, *HALVES)) == 2
    error = [
        line for line in capfd.readouterr().err.splitlines() if "timm-gcp: " in line
    ]  # torch writes a \0 before it
    assert len(error) == 1
    assert re.search(r"timm-gcp: error: A loader process .*-j 0.*; go on with --resume .*last\.pth\.tar", error[0])
    left = load_training_checkpoint(tmp_path / "run" / "last.pth.tar")
    assert left["epoch"] == 0
    assert 0 < left["within"]["position"]["batches"] < 9
    assert left["within"]["position"]["batches"] % 2 == 0
    assert main(arguments(images, tmp_path, *HALVES)) == 0
    same_runs(whole, tmp_path / "run")


@pytest.mark.parametrize(
    ("number", "status"),
    [
        ("SIGTERM", 143),
        pytest.param("SIGHUP", 129, marks=pytest.mark.slow),
        pytest.param("SIGINT", 130, marks=pytest.mark.slow),
    ],
)
def test_a_stuck_loader_is_stopped_by_one_signal(number, status, whole, images, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        flag = tmp_path / "stuck"
        hinder(patched, lambda: (flag.touch(), time.sleep(3600)), at=36 + 4 * 5)

        def send():
            while not flag.exists():
                time.sleep(0.05)
            time.sleep(0.5)
            os.kill(os.getpid(), getattr(signal, number))

        threading.Thread(target=send, daemon=True).start()
        assert main(arguments(images, tmp_path, *HALVES)) == status
    assert load_training_checkpoint(tmp_path / "run" / "last.pth.tar")["within"]["position"]["batches"] % 2 == 0
    assert main(arguments(images, tmp_path, *HALVES)) == 0
    same_runs(whole, tmp_path / "run")


# ------------------------------------------------------------------------------------------------------ shortages


class Unsendable:
    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


class Data(Dataset):
    def __init__(self, deed):
        self.deed = deed

    def __getitem__(self, index):
        return self.deed()

    def __len__(self):
        return 4


def raises(error):
    raise error


def loader_of(deed):
    init = functools.partial(_worker_init, worker_seeding=start_worker)
    kept = {"num_workers": 1, "persistent_workers": True}
    return GuardedLoader(DataLoader(Data(deed), batch_size=None, worker_init_fn=init, **kept))


SHORT = [
    (OSError(errno.EMFILE, "Too many open files"), r"ulimit -n .*-j 0"),
    (RuntimeError("received 0 items of ancdata"), r"ulimit -n .*-j 0"),
    (RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)"), r"--shm-size .*-j 0"),
    (RuntimeError("unable to allocate shared memory(shm) for file </x>: (28)"), r"--shm-size .*-j 0"),
    (MemoryError(), r"out of memory: .*-j 0.*-b"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), r"out of memory: .*-j 0.*-b"),
]


@pytest.mark.parametrize(("error", "match"), SHORT)
@pytest.mark.parametrize("where", ["loading", pytest.param("sending", marks=pytest.mark.slow)])
def test_what_a_worker_lacks_is_named(where, error, match):
    """Sending: torch would drop the batch, and wait for it without end."""
    deed = functools.partial(raises, error) if where == "loading" else functools.partial(Unsendable, error)
    with loader_of(deed) as loader, pytest.raises(LoaderError, match=match):
        list(loader)
    assert not loader._workers


@pytest.mark.slow
def test_a_bus_error_is_a_lack_of_shared_memory():
    with loader_of(lambda: os.kill(os.getpid(), signal.SIGBUS)) as loader, pytest.raises(LoaderError, match="shm-size"):
        list(loader)


def test_an_error_of_the_data_set_stays_its_own():
    deed = functools.partial(raises, ZeroDivisionError("of the data set"))
    with loader_of(deed) as loader, pytest.raises(ZeroDivisionError, match="of the data set"):
        list(loader)


@pytest.mark.slow
@pytest.mark.parametrize("handles", [30, 50])
def test_few_file_handles_and_many_workers(handles, images, tmp_path):
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_NOFILE, (handles, handles))
    done = subprocess.run(
        [sys.executable, "-m", "timm_gcp", *arguments(images, tmp_path, "-j", "8", "--epochs", "1")],
        capture_output=True, text=True, timeout=300, preexec_fn=limit,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert re.search(r"^timm-gcp: error: .*open files.*ulimit -n.*-j 0", done.stderr, re.MULTILINE), done.stderr
    assert "Traceback" not in done.stderr


def test_the_end_of_the_killed_processes_does_not_hide_the_failure():
    """A process starts, then the next one cannot: torch's handler of ended processes is still in force."""

    def died(*_):
        raise RuntimeError("DataLoader worker is killed")

    class Short:
        dataset = ()

        def __iter__(self):
            multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True).start()
            signal.signal(signal.SIGCHLD, died)
            raise OSError(errno.EMFILE, "Too many open files")

    before = signal.getsignal(signal.SIGCHLD)
    try:
        with pytest.raises(LoaderError, match="open files"):
            next(iter(GuardedLoader(Short())))
        assert not multiprocessing.active_children()
    finally:
        signal.signal(signal.SIGCHLD, before)


# ------------------------------------------------------------------------------------------------------- endings

ORPHAN = """
import functools, os, sys, time
from timm.data.loader import _worker_init
from torch.utils.data import DataLoader
from timm_gcp.data import workers

class Busy:
    def __getitem__(self, index):
        if index:
            print(os.getpid(), flush=True)
            time.sleep(3600)
        return index

    def __len__(self):
        return 2

if sys.argv[1] == "watch":
    workers.sys = type("system", (), {"platform": "other"})
init = functools.partial(_worker_init, worker_seeding=workers.start_worker)
list(workers.GuardedLoader(DataLoader(Busy(), num_workers=1, worker_init_fn=init)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["prctl", "watch"])
def test_a_busy_worker_ends_with_its_parent(how, tmp_path):
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    process = subprocess.Popen([sys.executable, str(script), how], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    os.kill(worker, 0)
    process.kill()
    process.wait()
    # The pipe that the worker inherited closes when it ends.
    assert process.stdout.read() == ""
    process.stdout.close()


def test_a_loader_ends_with_its_last_reference():
    loader = loader_of(functools.partial(time.sleep, 0))
    next(iter(loader))
    processes = list(loader._workers)
    del loader
    for process in processes:
        process.join(60)
        assert process.exitcode is not None


# -------------------------------------------------------------------------------------------------------- signals


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now[0])
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    return now


@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_second_signal_ends_at_once(number, clock, capfd):
    with Interrupt() as interrupt:
        os.kill(os.getpid(), getattr(signal, number))
        assert interrupt.exit_status == 128 + getattr(signal, number)
        assert "again stops at once" in capfd.readouterr().err
        clock[0] += 3
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), getattr(signal, number))


def test_a_signal_sent_twice_is_one_request(clock, monkeypatch):
    """A shell and the kernel both send SIGHUP; Slurm and torchrun both send SIGTERM."""
    for first, second in (("SIGHUP", "SIGHUP"), ("SIGTERM", "SIGTERM"), ("SIGTERM", "SIGHUP")):
        with Interrupt() as interrupt:
            os.kill(os.getpid(), getattr(signal, first))
            os.kill(os.getpid(), getattr(signal, second))
            assert interrupt.signal == getattr(signal, first)
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested


def test_nohup_stays_in_force(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_request_is_met_where_a_batch_is_awaited():
    with Interrupt() as interrupt:
        with pytest.raises(Interrupted), interrupt.awaiting():
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted), interrupt.awaiting():
            Path("never").write_text("reached")


@pytest.mark.parametrize(
    ("error", "shown"), [(EOFError(), False), (ConnectionResetError(), False), (OSError(24, "x"), True)]
)
def test_a_connection_that_the_main_process_gives_up_is_no_error(error, shown, capsys):
    """What the thread that hands over shared tensors does with an error, in a loader process."""
    workers._excepthook(type(error), error, None)
    assert ("OSError" in capsys.readouterr().err) == shown


def killed_soon(pause):
    time.sleep(pause)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError(), BrokenPipeError()])
@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_a_connection_that_breaks_before_the_death_is_reported(error, pause):
    """The worker dies while it hands a batch over: the connection breaks first, the exit status comes later."""
    worker = multiprocessing.get_context("fork").Process(target=killed_soon, args=(pause,))
    worker.start()
    assert "A loader process was killed" in workers._reason(error, [worker])
    worker.join()
