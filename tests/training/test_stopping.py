"""``--patience`` and ``--time-limit``: runs that end before their last epoch, resumed and in two processes."""

import argparse
import json

import pytest
import torch

from tests.support.resumed_runs import arguments, same_runs
from tests.support.tools import COMMON, MODEL, rows_of, torchrun
from timm_gcp.__main__ import main
from timm_gcp.commands.option_types import duration
from timm_gcp.training import trainer
from timm_gcp.weights.file import load_training_checkpoint


@pytest.fixture(scope="module")
def still(run):
    """Options under which the accuracy stays what it is, so that no ranked epoch is better than the first."""
    return "--model", str(run / "model"), "--lr", "1e-12", "--train-only", "classifier", "--epochs", "9", "--no-report"


def given(images, output, *more):
    place = ["--output", str(output), "--experiment", "run"]
    return ["train", "--data-dir", str(images), "--model", MODEL, *COMMON, "-j", "0", *place, *more]


def result_of(output):
    return json.loads((output / "run" / "result.json").read_text())


def test_patience_counts_ranked_epochs(images, still, tmp_path, capsys):
    """Two epochs are not ranked, the third is the best, and two more are not better."""
    command = given(images, tmp_path, *still, "--resume", "auto")
    assert main([*command, "--patience", "2"]) == 0
    assert "Ends after epoch 5 of 9: no better top1 in 2 epochs" in capsys.readouterr().out
    assert [row["method"] for row in rows_of(tmp_path / "run")] == ["isqrt"] * 2 + ["svdpade"] * 3
    result = result_of(tmp_path)
    assert (result["epochs"], result["epoch"], result["stopped"]) == (5, 2, "patience")
    assert result["segments"][-1]["last_epoch"] == 4
    assert (tmp_path / "run" / "model").is_dir()
    assert main([*command, "--patience", "2"]) == 0
    assert "A larger --patience trains on" in capsys.readouterr().out
    assert result_of(tmp_path) == result
    assert main([*command, "--patience", "3"]) == 0
    assert (len(rows_of(tmp_path / "run")), result_of(tmp_path)["epochs"]) == (6, 6)


@pytest.mark.slow
def test_a_run_that_is_killed_after_every_epoch_ends_where_an_unbroken_one_does(images, still, tmp_path, monkeypatch):
    """The kill comes when the checkpoint is written and the run has not decided yet."""
    more = (*still, "--model-kwargs", "--switch-epoch", "1", "--patience", "2")
    assert main(arguments(images, tmp_path / "whole", *more)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "reason_to_stop", lambda *args: exit(9))
        for _ in range(4):
            with pytest.raises(SystemExit):
                main(arguments(images, tmp_path / "killed", *more))
    assert len(rows_of(tmp_path / "killed" / "run")) == 4
    assert not (tmp_path / "killed" / "run" / "result.json").exists()
    assert main(arguments(images, tmp_path / "killed", *more)) == 0
    same_runs(tmp_path / "whole" / "run", tmp_path / "killed" / "run")


@pytest.mark.slow
def test_two_processes_end_together(images, still, tmp_path):
    done = torchrun("timm_gcp", *given(images, tmp_path, *still, "-b", "4", "--patience", "1"))
    assert done.returncode == 0, done.stderr
    assert (len(rows_of(tmp_path / "run")), result_of(tmp_path)["stopped"]) == (4, "patience")


def test_the_time_of_all_segments_counts(images, tmp_path, capsys):
    command = given(images, tmp_path, "--no-report", "--resume", "auto")
    assert main([*command, "--time-limit", "0.001"]) == 0
    output = capsys.readouterr().out
    assert "Ends after epoch 1 of 4" in output
    assert "The method has not switched" in output
    assert result_of(tmp_path)["stopped"] == "time limit"
    last = tmp_path / "run" / "last.pth.tar"
    checkpoint = load_training_checkpoint(last)
    checkpoint["gcp"]["seconds"] = 2 * 3600 - 0.01
    torch.save(checkpoint, last)
    assert main([*command, "--time-limit", "2h"]) == 0
    assert "Ends after epoch 2 of 4: 2:00:" in capsys.readouterr().out
    assert main([*command, "--time-limit", "1d"]) == 0
    assert (len(rows_of(tmp_path / "run")), result_of(tmp_path)["stopped"]) == (4, None)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("2h", 7200), ("1h30m", 5400), ("1d", 86400), ("0.5H", 1800), ("5400.0", 5400)]
)
def test_times(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "2x", "30m1h", "1.2.3m", "nan", "inf", "h"])
def test_what_is_no_time(text):
    with pytest.raises(argparse.ArgumentTypeError, match="such as 90m"):
        duration(text)


def test_no_patience_is_refused(images, tmp_path, capsys):
    assert main(given(images, tmp_path, "--patience", "0")) == 2
    assert "--patience: must be at least 1" in capsys.readouterr().err
