"""Runs that are killed, stopped, out of disk space or left with damaged checkpoints continue without a loss."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.support.resumed_runs import arguments, same_runs
from tests.support.tools import COMMON, MODEL, rows_of
from timm_gcp.__main__ import main
from timm_gcp.errors import GCPError
from timm_gcp.files import save_atomically
from timm_gcp.training.resume import newest_checkpoint
from timm_gcp.weights.file import load_training_checkpoint

KILLS = int(os.environ.get("TIMM_GCP_KILLS", "4"))
"""How often the run is killed; 20 is the real thing, and takes minutes."""


def start(argv, log=None, program=("-m", "timm_gcp")):
    return subprocess.Popen(
        [sys.executable, "-u", *program, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if log is None else log,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """The run that nothing happened to, with two loader processes."""
    output = tmp_path_factory.mktemp("whole")
    assert main(arguments(images, output, "-j", "2")) == 0
    assert "method isqrt → svdpade" in (output / "run" / "log.txt").read_text(encoding="utf-8")
    return output / "run"


# ------------------------------------------------------------------------------------------------------- killed


@pytest.mark.slow
def test_killed_at_random_moments(whole, images, tmp_path):
    """SIGKILL at a line of the log, a little later, or at a file event. The end is bit for bit the same."""
    chance = random.Random(0)
    argv, folder = arguments(images, tmp_path, "-j", "2", "--recovery-interval", "2"), tmp_path / "run"
    # Four epochs of five lines, before which the run starts and after which it writes its results.
    moments = sorted(chance.choices(range(-1, 20), k=KILLS))
    for moment in moments:
        process = start(argv)
        reached = -2
        while reached < moment and (line := process.stdout.readline()):
            reached = max(reached, _moment(line))
        how = chance.choice(("at once", "later", "at a file event"))
        if how == "later":
            time.sleep(chance.random() / 10)
        before = _listing(folder)
        while how == "at a file event" and _listing(folder) == before and process.poll() is None:
            time.sleep(0.0005)
        over = process.poll() is not None
        process.kill()
        process.wait()
        process.stdout.close()
        names = [name for name in ("last", "previous") if (folder / f"{name}.pth.tar").exists()]
        left = [load_training_checkpoint(folder / f"{name}.pth.tar") for name in names]
        at = [(each["epoch"] + 1, each.get("within", {}).get("position", {}).get("batches", 0)) for each in left]
        print(f"moment {moment}, {how}{', already over' if over else ''}; epoch and batch of {names}: {at}")
    process = start(argv)
    process.communicate()
    assert process.returncode == 0
    same_runs(whole, folder)


def _moment(line):
    """Where a line of the log stands in the run: -1 before the first update, then five an epoch."""
    if update := re.match(r"epoch (\d+) \[(\d+)/4\]", line):
        return 5 * int(update[1]) + int(update[2]) - 1
    if end := re.match(r"epoch (\d+)/3 ", line):
        return 5 * int(end[1]) + 4
    return 19 if "all 4 epochs done" in line else -1


def _listing(folder):
    try:
        return sorted((entry.name, entry.stat().st_mtime_ns) for entry in os.scandir(folder))
    except FileNotFoundError:
        return []


# ------------------------------------------------------------------------------------------------------ stopped


def stop_after(line, number, argv, log, group=False, program=("-m", "timm_gcp")):
    """Sends a signal when the output has a line that fits, and returns the rest of it and the exit status."""
    process = start(argv, log, program)
    read = ""
    for text in process.stdout:
        read += text
        if re.search(line, text):
            process.send_signal(number)
            if group:
                for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                    os.kill(int(child), number)
            break
    read += process.stdout.read()
    process.stdout.close()
    return read, process.wait()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the loader's processes by /proc")
def test_sigterm_and_ctrl_c_lose_no_update(whole, images, tmp_path):
    """Twice within an epoch, with all loader processes signalled too; the checkpoint goes on at the very update."""
    argv, folder = arguments(images, tmp_path, "-j", "2"), tmp_path / "run"
    with open(tmp_path / "errors.txt", "w+") as log:
        read, status = stop_after(r"^epoch 1 \[2/", signal.SIGTERM, argv, log, group=True)
        assert status == 143, log.seek(0) or log.read()
        assert f"Stopped; go on with --resume {folder / 'last.pth.tar'}" in read
        done = load_training_checkpoint(folder / "last.pth.tar")["within"]["position"]["batches"]
        assert 2 <= done <= 4
        read, status = stop_after(r"^epoch 2 \[3/", signal.SIGINT, argv, log, group=True)
        assert status == 130
        assert f"epochs 1 (after {done} batches) to 4" in read
        # What was done is not done again.
        assert f"epoch 1 [{done + 1}/4]" in read or done == 4
        assert f"epoch 1 [{done}/4]" not in read
        log.seek(0)
        assert "Traceback" not in log.read()
    assert main(argv) == 0
    same_runs(whole, folder)


@pytest.mark.slow
def test_stopped_while_it_evaluates(images, tmp_path, monkeypatch):
    """Without loader processes, and gradients gathered over two batches: every wish to stop is heard once."""
    from timm_gcp.training import trainer as train

    more = ("-j", "0", "--grad-accum-steps", "2", "--epochs", "2")
    assert main(arguments(images, tmp_path / "a", *more)) == 0
    real, calls = train.evaluate, []

    def signalled(*args, **kwargs):
        calls.append(1)
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(train, "evaluate", signalled)
    assert main(arguments(images, tmp_path / "b", *more)) == 143
    assert load_training_checkpoint(tmp_path / "b" / "run" / "last.pth.tar")["epoch"] == -1
    monkeypatch.undo()
    monkeypatch.setattr(train.Trainer, "update", _stopping(train.Trainer.update))
    assert main(arguments(images, tmp_path / "b", *more)) == 143
    monkeypatch.undo()
    checkpoint = load_training_checkpoint(tmp_path / "b" / "run" / "last.pth.tar")
    assert (checkpoint["epoch"], checkpoint["within"]["position"]["batches"]) == (0, 2)
    assert main(arguments(images, tmp_path / "b", *more)) == 0
    same_runs(tmp_path / "a" / "run", tmp_path / "b" / "run")


def _stopping(update):
    """An update that is asked to stop if it is the first one of an epoch."""

    def stopping(self, epoch, batches):
        first = self.run.position.batches == 0
        if first:
            self.interrupt.signal = signal.SIGTERM
        return update(self, epoch, batches)

    return stopping


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(images, tmp_path):
    """While the first one's checkpoint is being written: the one before stays, and nothing torn is left."""
    script = tmp_path / "twice.py"
    script.write_text(
        "import os, signal, sys, torch\n"
        "from timm_gcp.__main__ import main\n"
        "from timm_gcp.training import checkpoint\n"
        "real = checkpoint.RunSaver.save_last\n"
        "def again(self, epoch, within=None):\n"
        "    if within is not None:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    real(self, epoch, within)\n"
        "checkpoint.RunSaver.save_last = again\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    argv = arguments(images, tmp_path, "-j", "0")
    read, status = stop_after(r"^epoch 2 \[1/", signal.SIGINT, argv, subprocess.STDOUT, program=(str(script),))
    assert status == 130
    assert "Ctrl-C again stops at once" in read
    checkpoint = load_training_checkpoint(tmp_path / "run" / "last.pth.tar")
    assert (checkpoint["epoch"], "within" in checkpoint) == (0, False)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes by /proc")
def test_two_processes_stop_and_go_on_together(images, tmp_path):
    """One of them is signalled, then torchrun, which signals both; they stop and go on together."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "timm_gcp", "train")

    def run(name, stop_at=None, whom=None):
        argv = arguments(images, tmp_path / name, "-j", "0", "-b", "6", "--epochs", "2", "--drop", "0.0")[1:]
        process = start(argv, subprocess.STDOUT, torchrun)
        read = ""
        for line in process.stdout:
            read += line
            if stop_at and line.startswith(stop_at):
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                os.kill(int(children[-1]) if whom == "worker" else process.pid, signal.SIGTERM)
                stop_at = None
        process.stdout.close()
        return process.wait(), read

    status, read = run("a")
    assert status == 0, read
    last = tmp_path / "b" / "run" / "last.pth.tar"
    for stop_at, whom, epoch in (("epoch 1 [1/", "worker", 0), ("epoch 2 [1/", "torchrun", 1)):
        status, read = run("b", stop_at, whom)
        assert status != 0
        assert f"Stopped; go on with --resume {last}" in read
        left = load_training_checkpoint(last)
        assert left["epoch"] == epoch - 1
        assert left["within"]["position"]["batches"] >= 1
    status, read = run("b")
    assert status == 0, read
    assert "epochs 2 (after " in read
    a, b = tmp_path / "a" / "run", tmp_path / "b" / "run"
    for one, other in zip(rows_of(a), rows_of(b), strict=True):
        for key in ("train_loss", "kappa", "rank"):
            assert float(one[key]) == pytest.approx(float(other[key]), abs=1e-6)
    one, other = (load_training_checkpoint(folder / "last.pth.tar") for folder in (a, b))
    assert all(torch.equal(value, other["state_dict"][key]) for key, value in one["state_dict"].items())


# ------------------------------------------------------------------------------------------------ resume auto


def test_auto_needs_a_named_folder(images, capsys):
    assert main(["train", "--data-dir", str(images), "--model", MODEL, *COMMON, "--resume", "auto"]) == 2
    assert "--experiment" in capsys.readouterr().err


def test_auto_leaves_a_strange_folder_alone(images, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    assert main(arguments(images, tmp_path)) == 2
    assert "is not empty" in capsys.readouterr().err


def truncated(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garbage(file):
    file.write_bytes(b"\x80\x02garbage" * 100)


def empty(file):
    file.write_bytes(b"")


def other_content(file):
    torch.save({"weights": torch.zeros(3)}, file)


def flipped(file):
    """One bit of the weights: torch itself loads it without a word."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [truncated, garbage, empty, other_content, flipped])
def test_a_damaged_checkpoint_is_passed_over(damage, whole, tmp_path, caplog):
    shutil.copytree(whole, tmp_path / "run")
    last = tmp_path / "run" / "last.pth.tar"
    assert newest_checkpoint(tmp_path / "run") == last
    last.unlink()
    shutil.copy(whole / "last.pth.tar", last)
    damage(last)
    assert newest_checkpoint(tmp_path / "run") == last.with_name("previous.pth.tar")
    assert str(last) in caplog.text
    with pytest.raises(GCPError, match=r"last\.pth\.tar"):
        load_training_checkpoint(last)
    for file in (tmp_path / "run").glob("*.pth.tar"):
        file.write_bytes(b"")
    with pytest.raises(GCPError, match="remove the folder"):
        newest_checkpoint(tmp_path / "run")


@pytest.mark.slow
def test_goes_on_from_the_one_before(whole, images, tmp_path, capsys, caplog):
    """The last epoch's file is damaged under all its names, links that they are; the epoch is trained again."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    epoch = load_training_checkpoint(folder / "last.pth.tar")["epoch"]
    previous = load_training_checkpoint(folder / "previous.pth.tar")
    assert (epoch, previous["epoch"]) == (3, 2)
    for file in folder.glob("*.pth.tar"):
        if load_training_checkpoint(file)["epoch"] == epoch:
            flipped(file)
    assert main(arguments(images, tmp_path, "-j", "2")) == 0
    assert "last.pth.tar is damaged" in caplog.text
    assert "epochs 4 to 4" in capsys.readouterr().out
    same_runs(whole, folder)


@pytest.mark.slow
def test_within_another_epoch(images, tmp_path, capsys):
    """A checkpoint within an epoch fits only that epoch's batches."""
    more = ("-j", "0", "--epochs", "1", "--no-hybrid", "--recovery-interval", "3")
    argv = [a for a in arguments(images, tmp_path, *more) if a not in ("--switch-lr-fraction", "0.6")]
    at = argv.index("--switch-epoch")
    del argv[at : at + 2]
    assert main(argv) == 0
    last = tmp_path / "run" / "last.pth.tar"
    os.replace(last.with_name("previous.pth.tar"), last)
    for other in (tmp_path / "run").glob("*.pth.tar"):
        if other != last:
            other.unlink()
    assert main([*argv, "-b", "4"]) == 2
    assert "--batch-size 8, and this command gives 4: the checkpoint lies within an epoch" in capsys.readouterr().err
    assert main(argv) == 0


# ------------------------------------------------------------------------------------------------- a full disk

FULL = """
import resource, signal, sys
from timm_gcp.__main__ import main
from timm_gcp.training import checkpoint

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write over the limit fails as on a full disk
real = checkpoint.RunSaver._save

def full(self, path, epoch, metric=None):
    if epoch == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    real(self, path, epoch, metric)

checkpoint.RunSaver._save = full
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_full_disk_keeps_what_there_was(whole, images, tmp_path):
    script, folder = tmp_path / "full.py", tmp_path / "run"
    script.write_text(FULL)
    process = start(arguments(images, tmp_path, "-j", "2"), subprocess.PIPE, (str(script),))
    _, error = process.communicate()
    assert process.returncode == 2
    assert error.count("\n") == 1, error
    assert re.match(r"timm-gcp: error: Cannot write .*tmp\.pth\.tar \(.+\): make room.*--resume auto", error)
    assert load_training_checkpoint(folder / "last.pth.tar")["epoch"] == 0
    assert not [path.name for path in folder.iterdir() if path.name.startswith((".", "tmp"))]
    assert main(arguments(images, tmp_path, "-j", "2")) == 0
    same_runs(whole, folder)


def test_no_space_left(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"before")

    def write(_):
        raise OSError(28, "No space left on device")

    with pytest.raises(GCPError, match=r"Cannot write .*x \(No space left on device\): make room"):
        save_atomically(file, write)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert file.read_bytes() == b"before"
