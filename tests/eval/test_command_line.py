"""``python -m eval``."""

import subprocess
import sys

import pytest

from eval.__main__ import main
from tests.support.tools import ROOT


@pytest.mark.slow
def test_the_command_line(monkeypatch, capsys):
    shown = subprocess.run([sys.executable, "-m", "eval", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert "experiment" in shown.stdout
    monkeypatch.setattr(sys, "argv", ["eval", "experiment", "--data-dir", "nowhere"])
    assert main() == 2
    assert capsys.readouterr().err.strip() == (
        "eval: error: No train.txt in nowhere; --data-dir takes the folder of the grocery data set."
    )
