"""Classifiers fitted anew to fine-tuned networks, on a miniature of the grocery data set."""

import json

import pytest

from eval import refit
from eval.finetune import data_of
from eval.finetune_settings import KEY, Run
from eval.record import append_row, read_cells
from timm_gcp import GCPError
from timm_gcp.__main__ import main

MODELS = {"average": "test_resnet", "isqrt": "test_resnet_isqrt"}


def train(run, photographs, work):
    """Trains a network for an epoch, as the folder of the run has it."""
    data = data_of(run, photographs, work)
    given = ["--data-dir", data, "--dataset", "grocery", "--train-split", run.split, "--val-split", ""]
    given += ["--model", MODELS[run.head], "--img-size", "64", "-b", "8", "--epochs", "1", "--device", "cpu", "-j", "0"]
    given += ["--no-hybrid", "--no-report", "--output", work, "--experiment", run.name]
    assert main(["train", *map(str, given)]) == 0


@pytest.fixture
def runs(photographs, tmp_path):
    """A network of each head, a run whose network is not here, and one of the validation part."""
    trained = [Run("grocery", "test", "average", 0.03), Run("grocery", "test", "isqrt", 0.03, images=5)]
    absent = [Run("grocery", "test", "isqrt", 0.03, seed=1), Run("grocery", "val", "average", 0.03)]
    for run in trained:
        train(run, photographs, tmp_path / "work")
    for run in (*trained, *absent):
        row = dict(zip(KEY, run.key, strict=True))
        append_row(tmp_path / "finetune.csv", {**row, "top1": 50.0, "count": 6})
    return trained


def test_rows_and_table(runs, photographs, tmp_path):
    argv = ["--grocery", photographs, "--work", tmp_path / "work", "--results", tmp_path]
    refit.main(list(map(str, argv)))
    rows = read_cells(tmp_path / "refit.csv")
    assert [tuple(row) for row in rows[list(KEY)].itertuples(index=False)] == [run.key for run in runs]
    assert rows[["top1_mean", "top1_both"]].astype(float).stack().between(0, 100).all()
    refit.main(list(map(str, argv)))
    assert len(read_cells(tmp_path / "refit.csv")) == len(rows)
    text = refit.section(tmp_path)
    assert f"| Grocery Store | all | `average` | 0.03 | 0 | 50.0 | {float(rows['top1_mean'][0]):.1f} |" in text
    assert "| Grocery Store | 5 | `isqrt` | 0.03 | 0 | 50.0 |" in text


def test_the_classifier_is_that_of_the_command(runs, photographs, tmp_path):
    """``timm-gcp probe`` on the same checkpoint has the same accuracy."""
    refit.main(list(map(str, ["--grocery", photographs, "--work", tmp_path / "work", "--results", tmp_path])))
    run = runs[0]
    given = ["--checkpoint", tmp_path / "work" / run.name / "last.pth.tar", "--dataset", "grocery"]
    given += ["--val-split", "test", "--device", "cpu", "-j", "0", "--output", tmp_path / "probe", "--no-report"]
    assert main(["probe", str(photographs), *map(str, given)]) == 0
    head = json.loads((tmp_path / "probe" / "result.json").read_text())["heads"][0]
    assert f"{head['validation']:.2f}" == f"{float(read_cells(tmp_path / 'refit.csv')['top1_both'][0]):.2f}"


def test_without_networks(photographs, tmp_path):
    with pytest.raises(GCPError, match="has no checkpoint of a run"):
        refit.main(["--grocery", str(photographs), "--work", str(tmp_path), "--results", str(tmp_path)])
