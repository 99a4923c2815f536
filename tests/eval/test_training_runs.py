"""Processes that run commands for an experiment."""

import os
import signal
import subprocess
import sys
import time

from tests.support.tools import COMMON, MODEL, ROOT

DRIVER = """
import sys
from pathlib import Path
from eval.training_runs import Workers

if __name__ == "__main__":
    Workers(1).run(sys.argv[2:], Path(sys.argv[1]))
"""


def wait_for(condition):
    """Waits until a condition holds, for five minutes at most."""
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_run_is_saved_and_ends_when_its_driver_is_killed(images, tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    log = tmp_path / "x.log"
    arguments = ["train", "--data-dir", images, "--model", MODEL, *COMMON, "--epochs", "1000", "--output", tmp_path]
    command = [sys.executable, tmp_path / "driver.py", log, *arguments, "--experiment", "x", "--no-report"]
    driver = subprocess.Popen(list(map(str, command)), env={**os.environ, "PYTHONPATH": str(ROOT)})
    wait_for(lambda: log.exists() and "epoch 1/" in log.read_text())
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_for(lambda: "Stopped; go on with --resume" in log.read_text())
    assert (tmp_path / "x" / "last.pth.tar").is_file()
