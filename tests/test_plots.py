"""Plots need no display and no backend: commands run under whatever a notebook sets."""

import os
import subprocess
import sys

import pytest

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
