"""``train --log``: the rows of ``summary.csv`` in TensorBoard, Weights & Biases and MLflow, if installed."""

import importlib.util
import json

import pytest

from tests.support.tools import rows_of, torchrun
from timm_gcp.__main__ import main
from timm_gcp.training import tracking


def given(images, output, *more):
    place = ["--output", str(output), "--experiment", "run", "--resume", "auto", "--no-report"]
    short = ["--img-size", "64", "-b", "8", "-j", "0", "--device", "cpu", "--warmup-epochs", "0", "--sched", "none"]
    return ["train", "--data-dir", str(images), "--model", "test_resnet", *short, *place, *map(str, more)]


def in_two_parts(images, output, name):
    for epochs in ("2", "3"):
        assert main(given(images, output, "--log", name, "--epochs", epochs)) == 0
    return output / "run"


def same_numbers(series, run):
    """Numbers by name and step against the rows of the run."""
    rows = rows_of(run)
    assert len(rows) == 3
    for key in ("train_loss", "train_top1", "eval_loss", "eval_top1", "lr", "seconds"):
        assert series(key) == {int(row["epoch"]): pytest.approx(float(row[key]), rel=1e-6) for row in rows}


def events_of(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder)).Reload()
    return lambda key: {event.step: event.value for event in events.Scalars(key)}


def test_tensorboard(images, tmp_path):
    pytest.importorskip("tensorboard")
    run = in_two_parts(images, tmp_path, "tensorboard")
    same_numbers(events_of(run / "tensorboard"), run)


@pytest.mark.slow
def test_the_first_process_alone_writes(images, tmp_path):
    pytest.importorskip("tensorboard")
    done = torchrun("timm_gcp", *given(images, tmp_path, "--log-to", "tensorboard", "--epochs", "3"))
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    same_numbers(events_of(tmp_path / "run" / "tensorboard"), tmp_path / "run")


@pytest.mark.slow
def test_mlflow(images, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'tracking.db'}")
    run = in_two_parts(images, tmp_path, "mlflow")
    known = json.loads((run / "tracking.json").read_text())["mlflow"]
    client = mlflow.MlflowClient()
    same_numbers(lambda key: {each.step: each.value for each in client.get_metric_history(known, key)}, run)
    assert client.get_run(known).data.params["model"] == "test_resnet"


@pytest.mark.slow
def test_wandb(images, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = in_two_parts(images, tmp_path, "wandb")
    known = json.loads((run / "tracking.json").read_text())["wandb"]
    assert len(list((run / "wandb").glob(f"offline-run-*-{known}"))) == 2


class Failing(tracking.Tracker):
    """Works in the first epoch."""

    def __init__(self, run):
        super().__init__()

    def _add(self, numbers, epoch):
        if epoch:
            raise ConnectionError("the server is gone")

    def _close(self):
        raise AssertionError("a tracker that has failed is left alone")


def test_a_tracker_that_fails_does_not_end_the_run(images, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(tracking.TRACKERS, "wandb", Failing)
    monkeypatch.setattr("timm_gcp.commands.train.check_tracker", lambda name: None)
    assert main(given(images, tmp_path, "--log", "wandb", "--epochs", "3")) == 0
    assert caplog.text.count("the server is gone") == 1
    assert len(rows_of(tmp_path / "run")) == 3


@pytest.mark.parametrize("name", tracking.TRACKERS)
def test_a_missing_package_names_its_extra(name, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(given(images, tmp_path, "--log", name)) == 2
    assert f"the extra [{name}]" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_a_folder_is_no_package(tmp_path, monkeypatch, images, capsys):
    """Trackers write folders of their names to where ``python -m`` looks first."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(tracking, "TRACKERS", {"wandb": Failing})
    if getattr(importlib.util.find_spec("wandb"), "origin", None) is not None:
        pytest.skip("wandb is installed")
    assert main(given(images, tmp_path, "--log", "wandb")) == 2
    assert "not installed" in " ".join(capsys.readouterr().err.split())
