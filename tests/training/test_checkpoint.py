"""The ranking of a run across resumes, and what a checkpoint that is copied alone still gives."""

import csv
import json
import math
import os
import shutil

import pytest
import torch

from tests.support.tools import COMMON, MODEL
from timm_gcp.__main__ import main
from timm_gcp.commands.train import parse_train_args
from timm_gcp.errors import GCPError
from timm_gcp.training import checkpoint
from timm_gcp.training.checkpoint import RunSaver
from timm_gcp.training.resume import newest_checkpoint
from timm_gcp.weights.file import load_training_checkpoint


def saver_of(folder, *argv, decreasing=False):
    options, _ = parse_train_args(argv)
    model = torch.nn.Linear(2, 2)
    return RunSaver(model, torch.optim.SGD(model.parameters(), lr=1.0), options, folder, dict, decreasing=decreasing)


def resumed(folder, name):
    saver, path = saver_of(folder), folder / f"{name}.pth.tar"
    saver.resume(load_training_checkpoint(path), path)
    return saver


def best_of(folder):
    file = folder / "model_best.pth.tar"
    return load_training_checkpoint(file)["metric"] if file.exists() else None


def test_the_best_of_an_abandoned_branch_is_no_result(tmp_path):
    """A run goes on from an epoch before the first ranked one, in its own folder."""
    saver = saver_of(tmp_path)
    saver.save_checkpoint(0)
    for epoch, metric in ((1, 30.0), (2, 20.0)):
        saver.save_checkpoint(epoch, metric)
    assert best_of(tmp_path) == 30.0
    again = resumed(tmp_path, "checkpoint-0")
    assert best_of(tmp_path) is None
    assert again.save_checkpoint(1) == (None, None)
    assert again.save_checkpoint(2, 10.0) == (10.0, 2)
    assert best_of(tmp_path) == 10.0


def test_an_epoch_of_the_same_number_is_not_mistaken_for_the_best(tmp_path):
    saver = saver_of(tmp_path)
    for epoch, metric in ((0, 10.0), (1, 30.0), (2, 20.0)):
        saver.save_checkpoint(epoch, metric)
    shutil.copy(tmp_path / "checkpoint-2.pth.tar", tmp_path / "kept.pth.tar")
    other = resumed(tmp_path, "checkpoint-0")
    other.save_checkpoint(1, 25.0)
    assert best_of(tmp_path) == 25.0
    assert resumed(tmp_path, "kept").best_metric is None
    assert best_of(tmp_path) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_epoch_whose_metric_is_not_finite_is_not_ranked(bad, tmp_path, caplog):
    saver = saver_of(tmp_path, "--eval-metric", "loss", decreasing=True)
    assert saver.save_checkpoint(0, bad) == (None, None)
    assert f"Epoch 1 is not ranked: its metric is {bad:g}" in caplog.text
    assert saver.save_checkpoint(1, 0.9) == (0.9, 1)
    assert saver.save_checkpoint(2, bad) == (0.9, 1)
    assert saver.save_checkpoint(3, 0.5) == (0.5, 3)


def test_a_best_that_is_not_finite_is_forgotten(tmp_path):
    """Earlier versions ranked it."""
    saver_of(tmp_path).save_checkpoint(0, 1.0)
    path = tmp_path / "last.pth.tar"
    torch.save({**load_training_checkpoint(path), "best": {"epoch": 0, "metric": math.nan}, "metric": math.nan}, path)
    saver = resumed(tmp_path, "last")
    assert (saver.best_metric, saver.best_epoch) == (None, None)
    assert saver.save_checkpoint(1, 2.0) == (2.0, 1)


@pytest.mark.parametrize("full", [False, True])
def test_a_file_system_without_hard_links(full, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(1, "Operation not permitted")

    def torn(source, file):
        file.write(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    saver = saver_of(tmp_path)
    if full:
        monkeypatch.setattr(checkpoint, "_copy", torn)
        with pytest.raises(GCPError, match=r"No space left.*make room.*--resume auto"):
            saver.save_checkpoint(0, 1.0)
    else:
        saver.save_checkpoint(0, 1.0)
        assert best_of(tmp_path) == 1.0
    assert load_training_checkpoint(tmp_path / "last.pth.tar")["epoch"] == 0
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_earlier_checkpoint_becomes_the_last(tmp_path):
    """Later ones are removed, so that nothing goes on from epochs that are discarded."""
    saver = saver_of(tmp_path, "--checkpoint-hist", "5")
    for epoch, metric in enumerate((10.0, 30.0, 20.0, 25.0)):
        saver.save_checkpoint(epoch, metric)
    resumed(tmp_path, "checkpoint-1")
    epochs = {file.name: load_training_checkpoint(file)["epoch"] for file in tmp_path.glob("*.pth.tar")}
    assert epochs == {
        "last.pth.tar": 1, "model_best.pth.tar": 1, "checkpoint-0.pth.tar": 0, "checkpoint-1.pth.tar": 1
    }  # fmt: skip
    assert newest_checkpoint(tmp_path) == tmp_path / "last.pth.tar"


def test_the_checkpoint_that_is_resumed_is_kept(tmp_path):
    """Also where its path is written in another way than that of the run folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    saver = saver_of(folder)
    for epoch in range(3):
        saver.save_checkpoint(epoch, float(epoch))
    (tmp_path / "link").symlink_to(folder)
    path = tmp_path / "link" / "previous.pth.tar"
    saver_of(folder).resume(load_training_checkpoint(path), path)
    assert path.exists()
    assert best_of(folder) == 1.0
    assert load_training_checkpoint(folder / "last.pth.tar")["epoch"] == 1


def test_a_kill_after_a_resume_from_an_earlier_checkpoint(images, tmp_path, monkeypatch, capsys):
    """The discarded epochs stay discarded: the next resume goes on from the checkpoint that was named."""
    given = ["train", "--data-dir", str(images), "--model", MODEL, *COMMON, "-j", "0", "--no-report", "--no-hybrid"]
    at = given.index("--switch-epoch")
    del given[at : at + 2]
    given += ["--output", str(tmp_path), "--experiment", "x"]
    folder = tmp_path / "x"
    assert main([*given, "--epochs", "3"]) == 0
    assert (folder / "result.json").exists()

    def killed(*_):
        raise SystemExit(137)

    with monkeypatch.context() as patch:
        patch.setattr(RunSaver, "save_checkpoint", killed)
        with pytest.raises(SystemExit):
            main([*given, "--epochs", "4", "--resume", str(folder / "checkpoint-0.pth.tar")])
    shown = capsys.readouterr().out
    assert "removed checkpoints of epochs after it: previous.pth.tar, checkpoint-1.pth.tar, checkpoint-2" in shown
    assert not (folder / "result.json").exists()
    assert main([*given, "--epochs", "3", "--resume", "auto"]) == 0
    assert "epochs 2 to 3" in capsys.readouterr().out
    with open(folder / "summary.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1", "2"]
    assert json.loads((folder / "result.json").read_text())["epochs"] == 3


def test_the_last_checkpoint_alone_ends_a_run(run, images, tmp_path):
    """Without the summary of the epochs there are no curves, and the rest is written."""
    shutil.copy(run / "last.pth.tar", tmp_path / "last.pth.tar")
    given = ["--data-dir", images, "--model", MODEL, *COMMON, "-j", "0", "--output", tmp_path, "--experiment", "copy"]
    assert main(["train", *map(str, given), "--no-report", "--resume", str(tmp_path / "last.pth.tar")]) == 0
    copy = tmp_path / "copy"
    assert json.loads((copy / "result.json").read_text())["epochs"] == 4
    assert (copy / "model").is_dir()
    assert not (copy / "curves.png").exists()
