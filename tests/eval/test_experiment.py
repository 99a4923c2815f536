"""The experiment on a miniature of the grocery data set."""

import math
from pathlib import Path

import pandas as pd
import pytest

from eval import experiment, rate_search
from eval import experiment_settings as settings
from eval.experiment_settings import Run
from eval.record import read_cells


@pytest.mark.slow
def test_a_hybrid_starts_from_the_shared_checkpoint_bit_for_bit(photographs, tmp_path):
    """A hybrid has the same results trained from the first epoch and from the other hybrid's checkpoint."""
    base = Run(settings.BASE_HYBRID, 0.05, 1, 6)
    row, curves = experiment.train(base, photographs, tmp_path)
    assert 0 <= float(row["held_top1"]) <= 100
    assert "--experiment final-test_resnet-svdpade-hybrid-lr0.05-seed1" in row["command"]
    assert str(tmp_path) not in row["command"]
    assert list(curves["method"].iloc[[0, -1]]) == ["isqrt", "svdpade"]
    # What is finished is not trained again.
    before = (tmp_path / base.name / "result.json").stat().st_mtime_ns
    assert experiment.train(base, photographs, tmp_path)[0] == row
    assert (tmp_path / base.name / "result.json").stat().st_mtime_ns == before

    other = Run("polar-hybrid", 0.05, 1, 6)
    branched, epochs = experiment.train(other, photographs, tmp_path)
    alone, whole = experiment.train(other, photographs, tmp_path / "alone")
    started = [(folder / f"{other.name}.log").read_text() for folder in (tmp_path, tmp_path / "alone")]
    assert "epochs 1 to 6" in started[1]
    assert "epochs 1 to 6" not in started[0]
    different = {"date", "seconds"}
    assert {k: v for k, v in branched.items() if k not in different} == {
        k: v for k, v in alone.items() if k not in different
    }
    assert epochs.equals(whole)


def test_the_command_trains_what_is_missing(photographs, tmp_path, monkeypatch):
    trained = []

    def train(run, source, work):
        trained.append(run.name.removesuffix("-epochs30"))
        row = dict(zip(settings.KEY, run.key, strict=True))
        best = 0.1 if run.backbone == settings.BACKBONE else 4e-3
        top1 = 50 - 10 * abs(math.log2(run.rate / best))
        return {**row, "eval_top1": 50, "held_top1": top1, "held_count": 5000}, pd.DataFrame()

    monkeypatch.setattr(experiment, "train", train)
    given = ["--data-dir", str(photographs), "--results", str(tmp_path), "--jobs", "1"]
    experiment.main([*given, "--stage", "1"])
    # 0.1, 0.2, then 0.05 for two heads on one fold; then the two other candidates at the rate found.
    assert len(trained) == 2 * 3 + 2
    assert trained[6:] == [f"fold1-test_resnet-{head}-lr0.1-seed0" for head in ("rsqrt", "polar")]
    experiment.main([*given, "--stage", "2", "--seeds", "0", "1"])
    assert trained[8:13] == [f"final-test_resnet-{head}-lr0.1-seed0" for head in settings.STAGES[2]]
    number = len(trained)
    experiment.main([*given, "--stage", "2", "--seeds", "0", "1"])
    assert len(trained) == number
    experiment.main([*given, "--stage", "7", "--seeds", "0"])
    assert trained[number:] == [f"fold0-test_resnet-{head}-lr0.1-seed0" for head in settings.STAGES[7]]
    number = len(trained)
    # Another backbone has rates of its own: 1e-3, 2e-3, then 4e-3 and 8e-3 for two heads; then the final runs.
    experiment.main([*given, "--stage", "8", "--seeds", "0", "1"])
    assert len(trained) == number + 2 * 4 + 2 * 2
    experiment.main([*given, "--stage", "8", "--seeds", "2", "--heads", "isqrt"])
    assert trained.pop() == "final-test_vit-isqrt-lr0.004-seed2"
    finals = [f"final-test_vit-{head}-lr0.004-seed{seed}" for seed in (0, 1) for head in ("average", "isqrt")]
    assert trained[-4:] == finals
    # Reductions start at the rate of `isqrt` on that backbone, and each has its own.
    number = len(trained)
    experiment.main([*given, "--stage", "10", "--seeds", "0"])
    assert trained[number : number + 3] == [f"fold1-test_vit-{head}-lr0.004-seed0" for head in settings.REDUCED]
    assert len(trained) == number + 3 * 3 + 3
    assert trained[-3:] == [f"final-test_vit-{head}-lr0.004-seed0" for head in settings.REDUCED]
    assert list(rate_search.fold_scores(tmp_path, settings.EPOCHS)["isqrt"].index) == [0.05, 0.1, 0.2]
    assert len(rate_search.fold_runs(tmp_path, settings.EPOCHS)) == 2 * 3 + 2


def test_average_pooling_is_asked_for_where_it_is_not_the_backbones_own():
    assert Run("average", 1e-3, 0, 30).name != Run("average", 1e-3, 0, 5).name
    command = Run("average", 1e-3, 0, 30, None, "test_vit").command(Path("D"), Path("O"))
    assert "global_pool=avg" in command
    assert "adamw" in command
    assert "global_pool=avg" not in Run("isqrt", 1e-3, 0, 30, None, "test_vit").command(Path("D"), Path("O"))
    assert "--last-stride" not in command
    assert "--last-stride" in Run("average", 0.1, 0, 30).command(Path("D"), Path("O"))


def test_curves_are_written_once(tmp_path):
    file = tmp_path / "curves.csv"
    curves = pd.DataFrame(
        [{"backbone": "b", "head": "isqrt", "seed": seed, "epoch": epoch} for seed in ("0", "1") for epoch in (0, 1)]
    )
    for part in (curves[:2], curves[2:], curves[:2]):  # a run interrupted before its row was written is added again
        experiment.write_curves(file, part)
    written = read_cells(file).sort_values(["seed", "epoch"])
    assert list(zip(written["seed"], written["epoch"], strict=True)) == [
        ("0", "0"),
        ("0", "1"),
        ("1", "0"),
        ("1", "1"),
    ]
