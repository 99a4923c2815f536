"""Ctrl-C in the first seconds of a command."""

import os
import signal
import subprocess
import sys

import pytest

from timm_gcp.startup import is_command

IMPORTING = """
import os, signal, sys
sys.orig_argv = ["timm-gcp", "train"]
class Finder:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from timm_gcp.__main__ import main
main(["train", "--help"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    "module",
    [
        "torch",
        pytest.param("timm", marks=pytest.mark.slow),
        pytest.param("timm_gcp.commands.train", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_while_a_library_is_imported(module):
    done = subprocess.run([sys.executable, "-c", IMPORTING, module], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "timm-gcp: stopped.\n")


@pytest.mark.parametrize(
    ("line", "ours"),
    [
        ("/bin/timm-gcp train", True), ("python /venv/bin/timm-gcp list", True), ("python -m timm_gcp train", True),
        ("python -u -m timm_gcp train", True), ("python -m pytest", False), ("python train.py", False),
        ("python", False), ("python -m", False),
    ],
)  # fmt: skip
def test_other_programs_keep_their_ctrl_c(line, ours):
    assert is_command(line.split()) is ours


def test_ctrl_c_while_a_command_works_is_one_line(monkeypatch, capsys):
    from timm_gcp import __main__ as cli

    monkeypatch.setattr(cli, "_run", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert cli.main(["list"]) == 130
    assert capsys.readouterr().err == "timm-gcp: stopped.\n"
