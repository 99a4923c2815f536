"""The folder of a run: two runs never share one, however they are named and whenever they start."""

import os
import signal
import subprocess
import sys
import threading

import pytest
import torch
from filelock import FileLock

from tests.support.tools import COMMON, MODEL
from timm_gcp.__main__ import main
from timm_gcp.commands.train import parse_train_args
from timm_gcp.distributed import Processes
from timm_gcp.errors import GCPError
from timm_gcp.training import run_folder
from timm_gcp.training import trainer as train
from timm_gcp.training.run_folder import LOCK, RunFolder

CPU = Processes(torch.device("cpu"))


def arguments(output, **more):
    given = ["--output", str(output), "--experiment", more.get("experiment", "run")]
    options, _ = parse_train_args(given)
    options.resume = more.get("resume", "")
    return options


def content(folder):
    return sorted(path.name for path in folder.iterdir())


def test_runs_of_one_second_get_folders_of_their_own(tmp_path):
    """Many at once, without a name: each gets another folder, whatever the clock says."""
    folders = [RunFolder(arguments(tmp_path, experiment=""), CPU) for _ in range(8)]
    threads = [threading.Thread(target=folder.claim_dated, args=(MODEL, 64)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({folder.path for folder in folders}) == len(folders)
    assert all((folder.path / LOCK).is_file() for folder in folders)
    for folder in folders:
        folder.release()
    assert content(tmp_path) == []


@pytest.mark.parametrize("resume", ["", "auto", "given"])
def test_a_folder_in_use_is_refused(resume, tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "WAIT", 0.2)
    resume = str(tmp_path / "run" / "last.pth.tar") if resume == "given" else resume
    with RunFolder(arguments(tmp_path), CPU) as first:
        first.claim_named()
        with pytest.raises(GCPError, match=r"Another run uses the run folder .*run; wait until .*--experiment"):
            RunFolder(arguments(tmp_path, resume=resume), CPU).claim_named()
        assert content(tmp_path / "run") == [LOCK]
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_waits_for_the_end_of_the_one_before(tmp_path, caplog):
    first, second = RunFolder(arguments(tmp_path), CPU), RunFolder(arguments(tmp_path, resume="auto"), CPU)
    first.claim_named()
    (tmp_path / "run" / "last.pth.tar").touch()
    timer = threading.Timer(0.3, first.release)
    timer.start()
    second.claim_named()
    timer.join()
    assert "waiting" in caplog.text
    assert content(tmp_path / "run") == [LOCK, "last.pth.tar"]
    second.release()
    assert content(tmp_path / "run") == ["last.pth.tar"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_the_claim_of_a_killed_process_is_void(tmp_path):
    script = (
        "import os, sys, time, torch; from timm_gcp.training.run_folder import RunFolder\n"
        "from timm_gcp.commands.train import parse_train_args; from timm_gcp.distributed import Processes\n"
        "options, _ = parse_train_args(['--output', sys.argv[1], '--experiment', 'run'])\n"
        "folder = RunFolder(options, Processes(torch.device('cpu'))); folder.claim_named()\n"
        "print('claimed', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "claimed\n"
    with pytest.raises(GCPError, match="Another run uses"):
        RunFolder(arguments(tmp_path), CPU).claim_named()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert content(tmp_path / "run") == [LOCK]
    with RunFolder(arguments(tmp_path), CPU) as again:
        again.claim_named()
        again.check_free()


def test_a_refused_run_leaves_nothing(tmp_path, capsys):
    """Neither a folder of its own nor a lock in one that is somebody else's."""
    argv = [
        "train",
        "--data-dir",
        str(tmp_path / "nowhere"),
        "--model",
        MODEL,
        *COMMON,
        "--output",
        str(tmp_path / "out"),
    ]
    assert main([*argv, "--experiment", "a/b"]) == 2
    assert main(argv) == 2
    assert not (tmp_path / "out").exists()
    (tmp_path / "out" / "mine").mkdir(parents=True)
    (tmp_path / "out" / "mine" / "thesis.txt").write_text("precious")
    assert main([*argv, "--experiment", "mine"]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert content(tmp_path / "out" / "mine") == ["thesis.txt"]


def test_what_a_run_leaves_that_failed_in_its_first_epoch_is_no_obstacle(tmp_path):
    run = tmp_path / "run"
    for name in ("tensorboard", "wandb"):
        (run / name).mkdir(parents=True)
    for name in ("args.yaml", "history.json", "log.txt", "tracking.json", "tmp.pth.tar", "nonfinite-0.pt"):
        (run / name).touch()
    with RunFolder(arguments(tmp_path), CPU) as folder:
        folder.claim_named()
        folder.check_free()
        (run / "model_best.pth.tar").touch()
        with pytest.raises(GCPError, match="is not empty"):
            folder.check_free()


@pytest.mark.parametrize("taken", ["out", "out/run"])
def test_a_file_where_the_folder_should_be(taken, tmp_path, capsys):
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).write_text("")
    for named in (["--experiment", "run"], []) if taken == "out" else (["--experiment", "run"],):
        argv = ["train", str(tmp_path), "--model", MODEL, *COMMON, "--output", str(tmp_path / "out")]
        assert main([*argv, *named, "--val-split", ""]) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_a_training_holds_its_folder_until_its_end(images, tmp_path, monkeypatch):
    """A second command with its name is refused before it reads or writes anything; afterwards the lock is gone."""
    argv = ["train", "--data-dir", str(images), "--model", "test_resnet", "--img-size", "64", "-b", "8", "-j", "0"]
    argv += ["--epochs", "1", "--warmup-epochs", "0", "--device", "cpu", "--output", str(tmp_path)]
    seen = []
    real = train.finish

    def finish(run, report):
        before = content(run.folder)
        seen.append(main([*argv, "--experiment", "run"]))
        assert content(run.folder) == before
        real(run, report)

    monkeypatch.setattr(train, "finish", finish)
    assert main([*argv, "--experiment", "run"]) == 0
    assert seen == [2]
    assert {"result.json", "history.json"} < set(content(tmp_path / "run"))
    assert LOCK not in content(tmp_path / "run")


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, caplog):
    def none(*args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", none)
    with RunFolder(arguments(tmp_path), CPU) as folder:
        folder.claim_named()
    assert "without locks" in caplog.text
