"""``timm_gcp.train`` as a user calls it: what it returns and leaves behind, and how it stops."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import timm_gcp
from tests.support.tools import MODEL, ROOT, rows_of, write_images
from timm_gcp import GCPError
from timm_gcp.api import training
from timm_gcp.commands.train import parse_train_args, read_train_keywords

SHORT = {"img_size": 64, "batch_size": 8, "epochs": 4, "warmup_epochs": 0, "lr": 0.05, "workers": 1, "device": "cpu"}
SHORT |= {"monitor_every": 1, "switch_epoch": 2, "log_interval": 2, "sched_on_updates": False}
"""The options of ``COMMON`` as keywords."""


def _random_state():
    arrays = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), random.getstate(), [arrays[0], arrays[1].tolist(), *arrays[2:]]


@pytest.fixture(scope="module")
def result(images, tmp_path_factory):
    output = tmp_path_factory.mktemp("api")
    before = _random_state()
    found = timm_gcp.train(MODEL, data_dir=images, output=output, experiment="base", **SHORT)
    assert _random_state() == before
    return found


def test_the_run_is_that_of_the_command(result, run):
    ours, theirs = (rows_of(folder) for folder in (result.folder, run))
    assert [{**row, "seconds": ""} for row in ours] == [{**row, "seconds": ""} for row in theirs]
    files = [yaml.safe_load((folder / "args.yaml").read_text()) for folder in (result.folder, run)]
    assert {**files[0], "output": ""} == {**files[1], "output": ""}
    models = [timm_gcp.TrainResult(folder).model().state_dict() for folder in (result.folder, run)]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())
    words = result.record["command"].split()
    assert words[:2] == ["timm-gcp", "train"]
    # The recorded command is one that does the same.
    assert yaml.safe_load(parse_train_args(words[2:])[1]) == files[0]


def test_what_the_result_tells(result):
    rows = rows_of(result.folder)
    assert [row["epoch"] for row in result.history] == [0, 1, 2, 3]
    assert [row["method"] for row in result.history] == ["isqrt", "isqrt", "svdpade", "svdpade"]
    assert result.history[3]["train_loss"] == float(rows[3]["train_loss"])
    assert result.last == result.history[-1]
    assert result.best["epoch"] == result.best_epoch
    assert result.best_epoch in (2, 3)
    assert result.metrics["top1"] == pytest.approx(100 * result.predictions.right.mean())
    assert result.report == result.folder / "report" / "report.html"
    model = result.model()
    assert not model.training
    assert model.pretrained_cfg["label_names"] == ["coarse", "fine", "middle"]
    text = repr(result)
    assert f"{result.best_epoch + 1} of 4" in text
    assert f"{result.metrics['top1']:.2f} %" in text
    assert repr(timm_gcp.TrainResult(result.folder)) == text


def test_a_second_call_in_another_thread(result, images, tmp_path):
    """The same numbers where no signal handler can be set, and without an evaluation split; no report."""
    found = []
    options = {**SHORT, "val_split": "", "no_report": True, "output": tmp_path}
    work = threading.Thread(target=lambda: found.append(timm_gcp.train(MODEL, images, experiment="t", **options)))
    work.start()
    work.join()
    (threaded,) = found
    losses = [[row["train_loss"] for row in each.history] for each in (threaded, result)]
    assert losses[0] == losses[1]
    assert threaded.metrics == {}
    assert threaded.predictions is None
    assert threaded.report is None
    assert "training loss" in repr(threaded)
    assert "svg" in threaded._repr_html_()


def test_one_run_at_a_time(images, tmp_path, monkeypatch):
    """A second run in another thread is refused, and the first one is not touched."""
    refused, options = [], {"data_dir": images, "output": tmp_path, **SHORT, "epochs": 1, "hybrid": False}
    whole = training.run_training

    def another():
        with pytest.raises(GCPError, match="Another thread of this process trains") as error:
            timm_gcp.train(MODEL, experiment="second", **options)
        refused.append(error)

    def meanwhile(*given):
        thread = threading.Thread(target=another)
        thread.start()
        thread.join()
        return whole(*given)

    monkeypatch.setattr(training, "run_training", meanwhile)
    del options["switch_epoch"]
    assert len(timm_gcp.train(MODEL, experiment="first", **options).history) == 1
    assert len(refused) == 1
    assert not (tmp_path / "second").exists()


def test_config_and_recipe_are_below_the_keywords(tmp_path, images):
    config = tmp_path / "c.yaml"
    config.write_text("smoothing: 0.2\nlr_base: 0.5\namp: true\n")
    given = {"recipe": "finetune", "config": config, "smoothing": 0.3, "data_dir": images, "amp": False}
    options, _, _ = read_train_keywords(given, "timm_gcp.train")
    assert (options.smoothing, options.lr_base, options.clip_grad, options.amp) == (0.3, 0.5, 5.0, False)


REFUSED = {
    "misspelt": ({"epoch": 3}, r"no option 'epoch'; did you mean `epochs`"),
    "another name": ({"learning_rate": 0.1}, "did you mean `lr`"),
    "another name misspelt": ({"learning_rat": 0.1}, "did you mean `lr`"),
    "nothing near": ({"zzzz": 1}, r"help\(timm_gcp.train\)"),
    "type": ({"epochs": "ten"}, "`epochs`: 'ten' is not a whole number"),
    "number for whole number": ({"epochs": 2.5}, "`epochs`: '2.5' is not a whole number"),
    "truth for number": ({"epochs": True}, "`epochs` cannot be True"),
    "number for truth": ({"amp": 1}, "`amp` takes true or false"),
    "range": ({"lr": -1}, "`lr`: must be positive, not -1"),
    "choice": ({"clip_mode": "all"}, "`clip_mode` cannot be 'all'; it is one of 'norm'"),
    "several": ({"input_size": (3, 64)}, "`input_size` takes 3 values, not 2"),
    "no dictionary": ({"method_args": "degree=3"}, "`method_args` takes"),
    "too small": ({"epochs": 0}, "`epochs`: must be at least 1"),
    "recipe": ({"recipe": "fintune"}, "did you mean finetune"),
    "contradiction": ({"resume": "auto"}, "add `experiment`"),
    "model": ({"model": "resnet5_svdpade"}, "did you mean resnet50_svdpade"),
    "network": ({"model": nn.Linear(2, 3)}, r"a registered name or a model folder, not a Linear\."),
    "folder": ({"data_dir": "nowhere"}, "`data_dir` 'nowhere' does not exist"),
    "hybrid": ({"model": "test_resnet_isqrt", "hybrid": True}, "`hybrid=False`"),
    "help": ({"help": True}, "no option 'help'"),
}


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(given, message, images, tmp_path):
    options = {"model": MODEL, "data_dir": images, "device": "cpu", "workers": 0, "output": tmp_path / "runs"} | given
    with pytest.raises(GCPError, match=message):
        timm_gcp.train(**options)
    assert not (tmp_path / "runs").exists()


def test_several_processes_are_refused(images, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(GCPError, match="torchrun"):
        timm_gcp.train(MODEL, images)


def test_folders_that_are_no_finished_run(tmp_path, run):
    with pytest.raises(GCPError, match="not the folder of a finished run"):
        timm_gcp.TrainResult(tmp_path)
    (tmp_path / "result.json").write_text('{"heads": []}')
    with pytest.raises(GCPError, match="not the folder of a training run"):
        timm_gcp.TrainResult(tmp_path)
    (tmp_path / "result.json").unlink()
    (tmp_path / "last.pth.tar").write_bytes(b"")
    with pytest.raises(GCPError, match=r"has not ended: go on with `resume='.*last.pth.tar'`"):
        timm_gcp.TrainResult(tmp_path)


SCRIPT = """
import json, sys
import timm_gcp
options = json.loads(sys.argv[1])
try:
    timm_gcp.train(**options)
except KeyboardInterrupt as error:
    print("stopped:", error, flush=True)
    result = timm_gcp.train(**{**options, "resume": "auto", "epochs": 2, "log_interval": 100})
    print(json.dumps([row["train_loss"] for row in result.history]), flush=True)
"""


def start(tmp_path, name):
    """A process that trains, once it is in its first epoch."""
    write_images(tmp_path / "images", per_class=40)
    options = {"model": MODEL, "data_dir": str(tmp_path / "images"), "img_size": 64, "batch_size": 4, "epochs": 2}
    options |= {"output": str(tmp_path), "experiment": name, "device": "cpu", "workers": 0, "log_interval": 1}
    options |= {"hybrid": False, "no_report": True, "warmup_epochs": 0, "lr": 0.01}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), json.dumps(options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for line in process.stdout:
        if line.startswith("epoch 1 ["):
            break
    return process, options


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_process_goes_on(tmp_path):
    process, options = start(tmp_path, "stopped")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert f"stopped: Stopped; go on with resume='{tmp_path / 'stopped' / 'last.pth.tar'}'." in out
    whole = timm_gcp.train(**{**options, "experiment": "whole"})
    assert json.loads(out.splitlines()[-1]) == [row["train_loss"] for row in whole.history]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_sigterm_saves_and_ends_the_process(tmp_path):
    process, _ = start(tmp_path, "ended")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=200)
    assert process.returncode == -signal.SIGTERM
    assert (tmp_path / "ended" / "last.pth.tar").is_file()


@pytest.mark.slow
def test_the_stop_button_of_a_notebook(tmp_path):
    from jupyter_client.manager import start_new_kernel

    write_images(tmp_path / "images", per_class=40)
    given = (
        f"data_dir={str(tmp_path / 'images')!r}, output={str(tmp_path)!r}, experiment='n', img_size=64, log_interval=1"
    )
    call = f"timm_gcp.train({MODEL!r}, {given}, batch_size=4, device='cpu', workers=0, hybrid=False, resume='auto'"
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(ROOT))
    try:

        def run(code, stop_at=None):
            sent, said = client.execute(code), []
            while True:
                message = client.get_iopub_msg(timeout=120)
                if message["parent_header"].get("msg_id") != sent:
                    continue
                content = message["content"]
                said.append(content)
                if stop_at and stop_at in content.get("text", ""):
                    manager.interrupt_kernel()
                    stop_at = None
                if content.get("execution_state") == "idle":
                    return said

        said = run(f"import timm_gcp\nresult = {call}, epochs=50)", "epoch 1 [3/")
        (error,) = [each for each in said if "ename" in each]
        assert error["ename"] == "KeyboardInterrupt"
        assert "go on with resume=" in error["evalue"]
        said = run(f"{call}, epochs=1)")
        (shown,) = [each["data"] for each in said if "data" in each]
        assert "best epoch" in shown["text/plain"]
        assert "<svg" in shown["text/html"]
    finally:
        manager.shutdown_kernel(now=True)
        client.stop_channels()
