"""Plots need no display and no backend: commands run under whatever a notebook sets."""

import os
import subprocess
import sys

import pytest

from timm_gcp.training import curves

DRAW = """
import os, sys
from timm_gcp.commands import demo, train
from timm_gcp.training import curves
assert "matplotlib" not in sys.modules
curves.draw_curves(sys.argv[1], sys.argv[2])
assert os.environ["MPLBACKEND"] == sys.argv[3]
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["inline", "module://matplotlib_inline.backend_inline", "nonsense", "TkAgg"])
def test_a_plot_is_drawn_under_any_backend(backend, tmp_path):
    summary = tmp_path / "summary.csv"
    summary.write_text("epoch,train_loss,lr\n0,1.0,0.1\n1,0.5,0.01\n")
    done = subprocess.run(
        [sys.executable, "-c", DRAW, str(summary), str(tmp_path / "curves.png"), backend],
        capture_output=True, text=True, timeout=300, env={**os.environ, "MPLBACKEND": backend},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_epochs_are_counted_as_in_the_log(tmp_path, monkeypatch):
    """``summary.csv`` counts from 0, as timm's; the log and the plots count from 1."""
    summary, drawn = tmp_path / "summary.csv", []
    summary.write_text("epoch,train_loss,lr\n0,1.0,0.1\n1,0.5,0.01\n")
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: drawn.append(figure))
    curves.draw_curves(summary, tmp_path / "curves.png")
    assert all(list(line.get_xdata()) == [1, 2] for axes in drawn[0].axes for line in axes.lines)
