"""``python -m eval conditioning``."""

import shutil

import pytest

from eval import conditioning
from eval.record import read_table
from timm_gcp import GCPError


def test_conditioning(run, tmp_path):
    conditioning.main([str(run), "--results", str(tmp_path)])
    rows = read_table(tmp_path / "conditioning.csv")
    assert list(rows.columns[:7]) == ["run", "epoch", "lr", "method", "kappa", "rank", "under_eps"]
    assert list(rows["method"]) == ["isqrt", "isqrt", "svdpade", "svdpade"]
    assert ((rows["kappa"] >= 1) & rows["lr"].notna() & (rows["run"] == run.name)).all()
    assert (tmp_path / "conditioning.png").stat().st_size > 10_000
    with pytest.raises(GCPError, match=r"no summary\.csv"):
        conditioning.main([str(tmp_path), "--results", str(tmp_path)])


def test_runs_with_one_name_are_told_apart_by_their_paths(run, tmp_path):
    same = tmp_path / "again" / run.name
    same.mkdir(parents=True)
    shutil.copy(run / "summary.csv", same)
    conditioning.main([str(run), str(same), "--results", str(tmp_path)])
    assert set(read_table(tmp_path / "conditioning.csv")["run"]) == {str(run), str(same)}
