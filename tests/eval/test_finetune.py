"""The fine-tuning experiment on a miniature of the grocery data set."""

import shlex

import pandas as pd
import pytest
import timm

from eval import finetune
from eval import finetune_settings as settings
from eval.finetune_settings import HEADS, Run, stages
from eval.folds import write_subset
from eval.record import read_cells
from eval.training_runs import raise_failures, run_here, train_in_parallel
from timm_gcp import GCPError
from timm_gcp.models.folder import save_folder


@pytest.fixture
def quick(monkeypatch):
    """A small backbone, small images, no autocast."""
    monkeypatch.setattr(settings, "BACKBONE", "test_efficientnet")
    monkeypatch.setattr(settings, "RECIPE", shlex.split("--recipe finetune -b 4 --img-size 64 --no-check-images"))


def test_runs_are_trained_once_and_evaluated_on_their_part(photographs, quick, tmp_path):
    save_folder(timm.create_model("test_efficientnet", num_classes=4), tmp_path / "plain")
    weights = tmp_path / "plain" / "model.safetensors"
    experiment = finetune.Experiment(
        {"grocery": photographs}, weights, tmp_path / "runs", tmp_path, 1, ("--device", "cpu", "--workers", "0"), 60
    )

    class Here:
        """Runs commands in this process."""

        def run(self, arguments, log):
            log.parent.mkdir(parents=True, exist_ok=True)
            assert run_here(arguments, log) == 0

    for head in ("average, probe", "isqrt, probe", "cov, DropCov"):
        run = Run("grocery", "test", head, 0.01, epochs=1)
        row = experiment.train(Here(), float("inf"), run)
        assert tuple(str(row[name]) for name in settings.KEY) == run.key
        assert 0 <= row["top1"] <= 100
        assert str(tmp_path) not in row["command"]
        before = (tmp_path / "runs" / run.name / "result.json").stat().st_mtime_ns
        again = experiment.train(Here(), float("inf"), run)
        assert {**again, "date": row["date"]} == row
        assert (tmp_path / "runs" / run.name / "result.json").stat().st_mtime_ns == before
    assert experiment.train(Here(), 0.0, run) is None


def test_the_command_searches_then_trains_what_is_missing(photographs, tmp_path, monkeypatch):
    trained = []

    def train(self, workers, stop, run):
        trained.append(run)
        rate = {"average": 0.01, "isqrt": 0.1, "average, probe": 0.01, "isqrt, probe": 0.01}[HEADS[run.head].rate_of]
        top1 = 80 - 100 * abs(run.rate - rate)
        top1 += 5 * ("probe" in run.head)
        return {**dict(zip(settings.KEY, run.key, strict=True)), "top1": top1, "seconds": 1}

    monkeypatch.setattr(finetune.Experiment, "train", train)
    for name in ("cars", "grocery"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.txt").write_text("a, 0\n")
    sets = ["--cars", tmp_path / "cars", "--grocery", tmp_path / "grocery"]
    argv = [*sets, "--weights", "w", "--work", tmp_path / "w", "--results", tmp_path / "r", "--jobs", "1"]
    finetune.main(list(map(str, argv)))
    search = [run for run in trained if run.part == "val" and run.images == settings.SEARCHED.get(run.head, 0)]
    assert trained[: len(search)] == search
    assert {run.head: run.images for run in search} == settings.SEARCHED
    assert {run.rate for run in search if run.head == "isqrt"} == {0.01, 0.03, 0.1}
    assert {run.rate for run in search if run.head == "average"} == {0.003, 0.01, 0.03}
    final = [run for run in trained if run.part == "test"]
    assert {run.rate for run in final if HEADS[run.head].rate_of == "isqrt"} == {0.1}
    assert {run.head for run in final if run.seed == 2} == {"average", "isqrt"}
    assert {run.head for run in final if run.set == "grocery" and not run.images} == set(HEADS)
    number = len(trained)
    finetune.main(list(map(str, argv)))
    assert len(trained) == number
    assert len(read_cells(tmp_path / "r" / "finetune.csv")) == number


def test_a_stage_that_lacks_the_search_says_so(tmp_path):
    (tmp_path / "train.txt").write_text("a, 0\n")
    argv = ["--cars", tmp_path, "--weights", "w", "--results", tmp_path / "r", "--jobs", "1", "--stage", "3"]
    with pytest.raises(GCPError, match="stages 1 and 2"):
        finetune.main(list(map(str, argv)))


def test_a_run_that_fails_does_not_stop_the_others(tmp_path):
    done = []

    def train(number):
        if number == 1:
            raise GCPError("run 1 failed")
        return number

    failed = train_in_parallel([0, 1, 2], train, lambda run, result: done.append(result) or "done", 1)
    assert done == [0, 2]
    with pytest.raises(GCPError, match="run 1 failed"):
        raise_failures(failed)
    raise_failures([])


def test_the_lowest_rate_within_one_standard_error_is_chosen():
    assert settings.chosen_rate({0.01: 27.9, 0.03: 31.2, 0.1: 31.8}) == 0.03
    assert settings.chosen_rate({0.01: 27.9, 0.03: 30.2, 0.1: 31.8}) == 0.1
    assert settings.chosen_rate({0.003: 60.0, 0.01: 60.0}) == 0.003
    assert settings.chosen_rate({0.03: 100.0, 0.01: 99.9}) == 0.03


def test_every_head_has_a_rate_and_a_stage():
    planned = stages({head: {0.003: 1.0, 0.01: 3.0, 0.03: 2.0} for head in settings.SEARCHED})
    assert {run.head for runs in planned.values() for run in runs} == set(HEADS)
    keys = pd.Series([run.key for runs in planned.values() for run in runs])
    assert keys.is_unique


def test_a_subset_has_some_images_of_every_class_and_a_smaller_one_is_a_part_of_it(photographs, tmp_path):
    lines = {}
    for count in (1, 2):
        out = write_subset(photographs, tmp_path / "subset", count)
        lines[count] = (out / f"train-{count}.txt").read_text().splitlines()
    assert set(lines[1]) < set(lines[2]) < set((photographs / "train.txt").read_text().splitlines())
    labels = [line.split(",")[1] for line in lines[1]]
    assert len(labels) == len(set(labels))
